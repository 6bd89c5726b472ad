from __future__ import annotations

from pathlib import Path

import pytest

import cxrzoo
from cxrzoo import resources
from cxrzoo.errors import CardError, UnknownNameError
from cxrzoo.zoo import registry
from tests.zoo.cards import copy_card, edit_card

BUILT_IN = sorted(path.parent.name for path in resources.MODEL_CARDS.glob("*/README.md"))


def install(monkeypatch, site: Path, package: str, code: str, target: str = "cards") -> None:
    """What pip leaves behind: a module and metadata with an entry point, on sys.path."""
    module = package.replace("-", "_")
    info = site / f"{module}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[cxrzoo.encoders]\nall = {module}:{target}\n")
    (site / f"{module}.py").write_text(code)
    monkeypatch.syspath_prepend(site)


def plugin_card(folder: Path, name: str) -> Path:
    folder.mkdir(exist_ok=True)
    directory = copy_card("random-init", folder).rename(folder / name)
    edit_card(directory, name=name)
    return directory


# --- the packaged encoders ------------------------------------------------------------------


def test_the_packaged_encoders_are_listed_in_order():
    assert registry.list_encoders() == cxrzoo.list_encoders() == BUILT_IN


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_listed_encoder_is_found_under_its_name(name):
    card, directory = registry.find(name)
    assert card.name == directory.name == name


def test_an_unknown_name_is_answered_with_near_ones():
    with pytest.raises(UnknownNameError) as caught:
        registry.find("supervized-imagenet")
    message = str(caught.value)
    assert message.startswith("unknown encoder 'supervized-imagenet'; did you mean ")
    assert "supervised-imagenet" in message
    assert "random-init" not in message


def test_a_name_near_to_none_is_answered_with_the_first_and_how_many_more():
    with pytest.raises(UnknownNameError) as caught:
        registry.find("qqqq")
    assert all(name in str(caught.value) for name in BUILT_IN[:25])
    assert str(caught.value).endswith(f", and {len(BUILT_IN) - 25} more")


def test_at_hand_are_seeds_and_files_that_exist(tmp_path):
    for name in ("supervised-imagenet", "random-init"):
        assert registry.at_hand(*registry.find(name))
    assert not registry.at_hand(*registry.find("swav-cxr"))
    assert not registry.at_hand(registry.find("supervised-imagenet")[0], tmp_path)


def test_encoders_at_hand_are_those_with_weights_in_the_package():
    assert registry.encoders_at_hand() == [
        name for name in BUILT_IN if (resources.MODEL_CARDS / name / "config.json").exists()
    ]


# --- local directories ----------------------------------------------------------------------


def test_a_local_directory_is_located_by_path_and_by_bare_name(tmp_path, monkeypatch):
    directory = plugin_card(tmp_path, "mine")
    monkeypatch.chdir(tmp_path)
    for name in (str(directory), "./mine", "mine"):
        card, found = registry.locate(name)
        assert card.name == "mine"
        assert found.resolve() == directory


def test_a_zoo_name_wins_over_a_local_directory_of_that_name(tmp_path, monkeypatch):
    copy_card("random-init", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert registry.locate("random-init")[1] == resources.MODEL_CARDS / "random-init"
    assert registry.locate("./random-init")[1].resolve() == tmp_path / "random-init"


def test_a_path_without_a_card_is_a_card_error(tmp_path):
    for name in ("nowhere/encoder", str(tmp_path)):
        with pytest.raises(CardError, match="is not a model card directory"):
            registry.locate(name)


def test_an_unknown_scheme_is_answered_with_the_known_one():
    with pytest.raises(UnknownNameError, match=r"unknown encoder scheme 'zip:'.*timm:"):
        registry.locate("zip:some/where")


# --- encoders of other packages -------------------------------------------------------------


@pytest.mark.parametrize(
    "code",
    ["cards = {!r}", "from pathlib import Path\ncards = Path({!r})", "def cards(): return {!r}"],
    ids=["text", "path", "callable"],
)
def test_a_plugins_encoder_is_listed_found_and_loads(tmp_path, monkeypatch, request, code):
    directory = plugin_card(tmp_path / "cards", "their-encoder")
    package = f"good-{request.node.callspec.id}"
    install(monkeypatch, tmp_path / "site", package, code.format(str(directory.parent)))
    assert registry.list_encoders() == sorted([*BUILT_IN, "their-encoder"])
    assert registry.find("their-encoder")[1] == directory
    assert "their-encoder" in registry.encoders_at_hand()
    assert cxrzoo.load("their-encoder").card.name == "their-encoder"


BREAKS = {
    "import": ("import no_such_module", "cards"),
    "attribute": ("", "cards"),
    "call": ("def cards(): raise RuntimeError('no disk')", "cards"),
    "type": ("cards = 3", "cards"),
    "folder": ("cards = '/no/such/folder'", "cards"),
}


@pytest.mark.parametrize("how", BREAKS)
def test_a_broken_plugin_warns_with_its_packages_name_and_the_rest_still_lists(
    tmp_path, monkeypatch, how
):
    directory = plugin_card(tmp_path / "cards", "their-encoder")
    install(monkeypatch, tmp_path / "a", f"broken-{how}", *BREAKS[how])
    install(monkeypatch, tmp_path / "b", f"whole-{how}", f"cards = {str(directory.parent)!r}")
    with pytest.warns(UserWarning, match=f"package 'broken-{how}'"):
        assert registry.list_encoders() == sorted([*BUILT_IN, "their-encoder"])


def test_a_plugin_cannot_take_a_packaged_name(tmp_path, monkeypatch):
    plugin_card(tmp_path / "cards", "random-init")
    install(monkeypatch, tmp_path / "site", "thief", f"cards = {str(tmp_path / 'cards')!r}")
    with pytest.warns(UserWarning, match="package 'thief' may not replace 'random-init'"):
        _, directory = registry.find("random-init")
    assert directory == resources.MODEL_CARDS / "random-init"


def test_of_two_plugins_with_one_name_the_second_is_left_out(tmp_path, monkeypatch):
    for package in ("twin-one", "twin-two"):
        plugin_card(tmp_path / package, "twin")
        install(
            monkeypatch,
            tmp_path / f"{package}-site",
            package,
            f"cards = {str(tmp_path / package)!r}",
        )
    with pytest.warns(UserWarning, match=r"package 'twin-(one|two)' may not replace 'twin'"):
        assert registry.list_encoders().count("twin") == 1


def test_a_plugins_broken_card_does_not_hide_the_encoders_at_hand(tmp_path, monkeypatch):
    directory = plugin_card(tmp_path / "cards", "their-encoder")
    edit_card(directory, colour="blue")
    install(monkeypatch, tmp_path / "site", "bad-card", f"cards = {str(directory.parent)!r}")
    with pytest.warns(UserWarning, match=r"'bad-card' are left out: .*colour: unknown field"):
        assert {"random-init", "supervised-imagenet"} <= set(registry.encoders_at_hand())


def test_other_entry_points_are_left_alone(tmp_path, monkeypatch):
    install(monkeypatch, tmp_path, "unrelated", "raise RuntimeError('never import me')")
    points = next(tmp_path.glob("*.dist-info")) / "entry_points.txt"
    points.write_text(points.read_text().replace("cxrzoo.encoders", "cxrzoo.other"))
    assert registry.list_encoders() == BUILT_IN
