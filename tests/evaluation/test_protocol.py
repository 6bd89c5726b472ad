from __future__ import annotations

import pytest

from cxrzoo.errors import UnknownNameError
from cxrzoo.evaluation import protocol
from cxrzoo.files import sha256_of_json

# A changed hash is a changed protocol: give it a new version instead of a new hash.
FROZEN = {
    "linear-v1": "3b8dd3182c7d69e90b2d5bf25dbf02f59771b27e27dd48189c0b8908c735e136",
    "finetune-v1": "a046b92cf7914ec722905c9d1ee65783ac9dff4930c37eaca8ff5f2503a8a978",
}


@pytest.mark.parametrize("name", protocol.PROTOCOLS)
def test_a_published_protocol_does_not_change(name):
    assert sha256_of_json(protocol.spec(protocol.PROTOCOLS[name])) == FROZEN[name]


def test_short_names_mean_the_newest_version():
    assert protocol.find("linear").name == "linear-v1"
    assert protocol.find("finetune").name == "finetune-v1"


def test_an_unknown_protocol_names_near_ones():
    with pytest.raises(UnknownNameError, match=r"did you mean .*linear-v1"):
        protocol.find("linear-v2")
