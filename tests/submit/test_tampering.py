"""Bundles that somebody has tampered with, each refused by a message of its own.

Where a clever cheat would, hashes and seals are made anew, so that only the content is wrong.
"""

from __future__ import annotations

import io
import json
import pickle
import re
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from cxrzoo import __version__
from cxrzoo.evaluation import record as records
from cxrzoo.report.cells import Evidence
from cxrzoo.submit.bundle import MANIFEST, Bundle
from cxrzoo.submit.container import write_zip
from cxrzoo.submit.validate import Report, validate
from tests.submit.forge import PREFIX, Forge

Tamper = Callable[[Forge], Any]
CASES: dict[str, tuple[Tamper, str]] = {}
ARCHIVES: dict[str, tuple[Callable[[Forge, Path], Any], str]] = {}


def case(name: str, message: str) -> Callable[[Tamper], Tamper]:
    def add(tamper: Tamper) -> Tamper:
        CASES[name] = (tamper, message)
        return tamper

    return add


def archive(name: str, message: str) -> Callable[[Any], Any]:
    def add(tamper: Any) -> Any:
        ARCHIVES[name] = (tamper, message)
        return tamper

    return add


def score(content: dict[str, Any]) -> dict[str, Any]:
    return content["result"]["tests"]["test"]


# Scores


@case("an AUROC raised by .001", "AUROC of Effusion on test is 0.[0-9]+, but its predictions give")
def _(forge: Forge) -> None:
    def raise_both(content: dict[str, Any]) -> None:
        test = score(content)
        test["labels"]["Effusion"]["auroc"] += 0.001
        test["macro"]["auroc"] = float(np.mean([e["auroc"] for e in test["labels"].values()]))

    forge.alter(raise_both)


@case("only the mean raised", "macro auroc is .*, and the mean of its labels")
def _(forge: Forge) -> None:
    forge.alter(lambda c: score(c)["macro"].update(auroc=score(c)["macro"]["auroc"] + 0.001))


@case("a score raised without sealing again", "digest or seal does not hold")
def _(forge: Forge) -> None:
    content = forge.content(forge.names[0])
    value = str(score(content)["macro"]["auroc"])
    forge.edit(forge.names[0], f'"auroc": {value}', '"auroc": 0.99')


@case("a score of 1.2", "auroc: Input should be less than or equal to 1")
def _(forge: Forge) -> None:
    forge.alter(lambda c: score(c)["macro"].update(auroc=1.2))


@case("NaN for a score", "holds NaN, which is no finite number")
def _(forge: Forge) -> None:
    forge.edit(forge.names[0], '"log_loss": 0.5', '"log_loss": NaN')


@case("a number that becomes infinite", "holds 1e999, which is no finite number")
def _(forge: Forge) -> None:
    forge.edit(forge.names[0], '"seconds": 1.0', '"seconds": 1e999')


@case("one test image fewer", "n_images is 59, and the test set has 60")
def _(forge: Forge) -> None:
    forge.alter(lambda c: score(c).update(n_images=59))


@case("positives made up", "Nodule has 59 positives and 1 negatives, and the test set")
def _(forge: Forge) -> None:
    forge.alter(lambda c: score(c)["labels"]["Nodule"].update(n_pos=59, n_neg=1))


@case("a bad label left out", "has other labels than Cardiomegaly")
def _(forge: Forge) -> None:
    forge.alter(lambda c: score(c)["labels"].pop("Nodule"))


@case("a score field nobody knows", "bonus: unknown field")
def _(forge: Forge) -> None:
    forge.alter(lambda c: score(c)["macro"].update(bonus=1))


@case("a bad score called undefined", "is undefined, and its positives and negatives make it ok")
def _(forge: Forge) -> None:
    def hide(content: dict[str, Any]) -> None:
        test = score(content)
        test["labels"]["Nodule"] |= {"status": "undefined", "auroc": None, "auprc": None}
        test["n_defined"] -= 1
        for metric in test["macro"]:
            rest = [e[metric] for e in test["labels"].values() if e["status"] == "ok"]
            test["macro"][metric] = float(np.mean(rest))

    forge.alter(hide)


# Whose record, and of what


@case("a record of another encoder", "is a record of moco-cxr, and the bundle is of my-encoder")
def _(forge: Forge) -> None:
    forge.alter(lambda c: c["spec"]["encoder"].update(name="moco-cxr"))


@case("a record of other weights", "was made with weights ffffffffffff, not the bundle's")
def _(forge: Forge) -> None:
    forge.alter(lambda c: c["spec"]["encoder"].update(weights_sha256="f" * 64))


@case("another input", "was made with another architecture or input than the card's")
def _(forge: Forge) -> None:
    forge.alter(lambda c: c["spec"]["encoder"]["input"].update(size_px=224))


@case("a missing seed", "phantom, budget 20, seed 1 is missing")
def _(forge: Forge) -> None:
    (name,) = (n for n in forge.names if "b20-s1" in n)
    del forge.files[name], forge.files[name.replace(".json", ".npz")]


@case("one seed's predictions for another", "has the predictions of another cell, records/my-enc")
def _(forge: Forge) -> None:
    """A good seed's, with the scores that follow from them."""
    first, second = forge.names[:2]
    result = forge.content(first)["result"]
    predictions = forge.files[first.replace(".json", ".npz")]
    forge.files[second.replace(".json", ".npz")] = predictions
    forge.alter(lambda c: c.update(result=result), which=1)


@case("a cell twice, to choose from", "a second record of the same cell")
def _(forge: Forge) -> None:
    name = forge.names[0]
    first = {n: forge.files[n] for n in (name, name.replace(".json", ".npz"))}
    forge.alter(lambda c: c["spec"]["benchmark"].update(pixels_sha256="3" * 64))
    forge.files |= first


@case("another copy of the images", "phantom was evaluated on two different copies")
def _(forge: Forge) -> None:
    forge.alter(lambda c: c["spec"]["benchmark"].update(pixels_sha256="4" * 64))


@case("a changed subset", "was trained on another subset")
def _(forge: Forge) -> None:
    forge.alter(lambda c: c["spec"]["budget"].update(subset_sha256="5" * 64))


@case("more images than the budget", "Effusion has more labelled images than the budget")
def _(forge: Forge) -> None:
    forge.alter(lambda c: c["result"]["budget_labels"]["Effusion"].update(n_pos=99))


@case("another seed's name", "budget 20, seed 7 is no cell of the grid")
def _(forge: Forge) -> None:
    forge.alter(lambda c: c["spec"].update(seed=7))


@case("other rows", "rows 666666666666 of phantom are no version that is known")
def _(forge: Forge) -> None:
    forge.alter(lambda c: c["spec"]["benchmark"].update(manifest_sha256="6" * 64))


@case("another split", "says split 'a kind split', and its rows have 'hashed split'")
def _(forge: Forge) -> None:
    forge.alter(lambda c: c["declared"].update(split="a kind split"))


@case("another label policy", "label policy or images left out are not those of its rows")
def _(forge: Forge) -> None:
    forge.alter(lambda c: c["spec"]["benchmark"].update(label_policy="zeros"))


@case("a benchmark nobody asked for", "'rsna' is no benchmark of the grid tiny")
def _(forge: Forge) -> None:
    forge.alter(lambda c: c["spec"]["benchmark"].update(name="rsna"))


@case("a protocol with more settings", "protocol 'linear-v1' has not the settings of linear-v1")
def _(forge: Forge) -> None:
    forge.alter(lambda c: c["spec"]["protocol"]["strengths"].append(10.0))


@case("more settings tried", "tried 40 settings; linear-v1 has 11 for everybody")
def _(forge: Forge) -> None:
    forge.alter(lambda c: c["result"]["search"].update(trials=40))


@case("a setting that there is not", "chose {'strength': 0.7}, which is no setting of linear-v1")
def _(forge: Forge) -> None:
    forge.alter(lambda c: c["result"]["chosen"].update(strength=0.7))


@case("a control as a result", r"is a control \('shuffled-labels'\), no result")
def _(forge: Forge) -> None:
    forge.alter(lambda c: c["spec"].update(control="shuffled-labels"))


@case("another precision", "was computed in 'float8', the grid wants float32")
def _(forge: Forge) -> None:
    forge.alter(lambda c: c["spec"].update(precision="float8"))


@case("a run key of another run", "run_key does not match the spec")
def _(forge: Forge) -> None:
    key = forge.content(forge.names[0])["run_key"]
    forge.edit(forge.names[0], key, "7" * 64)


@case("a record under another name", "has another name than its record")
def _(forge: Forge) -> None:
    for suffix in (".json", ".npz"):
        name = forge.names[0].replace(".json", suffix) if suffix == ".npz" else forge.names[0]
        forge.files[f"{PREFIX}-mine{suffix}"] = forge.files[name]
    name = next(n for n in forge.names if "mine" not in n)
    del forge.files[name], forge.files[name.replace(".json", ".npz")]


@case("a record of a later schema", "has schema 'cxrzoo.run/2', and this cxrzoo .* reads")
def _(forge: Forge) -> None:
    forge.edit(forge.names[0], "cxrzoo.run/1", "cxrzoo.run/2")


@case("a bundle of a later schema", "bundle.json: has schema 'cxrzoo.bundle/9'")
def _(forge: Forge) -> None:
    forge.seal()
    forge.edit(MANIFEST, "cxrzoo.bundle/1", "cxrzoo.bundle/9")


@case("a number written as a text", "holds values of other types than a record has")
def _(forge: Forge) -> None:
    name = forge.names[0]
    content = forge.content(name)
    content["spec"]["seed"] = str(content["spec"]["seed"])
    content["digest"] = records._digest(content)
    content["seal"] = records._seal(content)
    forge.files[name] = json.dumps(content).encode()


@case("a key twice", "names 'run_key' twice; readers would differ")
def _(forge: Forge) -> None:
    forge.edit(forge.names[0], '"run_key"', '"run_key": "x", "run_key"')


@case("a grid nobody knows", "unknown grid 'easy'")
def _(forge: Forge) -> None:
    forge.about["grid"] = "easy"


# The card


@case("exposure hidden", "declares exposure 'clean', and by the card it is exposed")
def _(forge: Forge) -> None:
    seen = "pretraining_data:\n- dataset: phantom\n  split: all\n  labels_seen: true\n"
    forge.edit("card/README.md", "pretraining_data: []\n", seen)


@case("exposure not declared", "pretraining_data is missing, so exposure is not declared")
def _(forge: Forge) -> None:
    forge.edit("card/README.md", "pretraining_data: []\n", "")


@case("another strategy", "declares another strategy than the card")
def _(forge: Forge) -> None:
    forge.alter(lambda c: c["declared"].update(strategy="magic"))


@case("praise among the notes", "has other notes than the benchmark: .*best encoder")
def _(forge: Forge) -> None:
    forge.alter(lambda c: c["declared"]["notes"].append("<b>the best encoder</b>"))


@case("a note left out", r"has other notes than the benchmark: \[\]")
def _(forge: Forge) -> None:
    forge.alter(lambda c: c["declared"].update(notes=[]))


@case("reasons of one's own", "gives other reasons for its exposure than follow from the card")
def _(forge: Forge) -> None:
    forge.alter(lambda c: c["declared"]["exposure"].update(reason="trust me"))


@case("declarations left out", "declared: exposure: Field required")
def _(forge: Forge) -> None:
    forge.alter(lambda c: c["declared"].pop("exposure"))


@case("a whole story for a device", "env.device is no number and no short text")
def _(forge: Forge) -> None:
    forge.alter(lambda c: c["env"].update(device={"name": "x"}))


@case("the card of another", "is the card of somebody, and the bundle of my-encoder")
def _(forge: Forge) -> None:
    forge.edit("card/README.md", "name: my-encoder\n", "name: somebody\n")


@case("other weights in the card", "says weights.sha256 eeee")
def _(forge: Forge) -> None:
    forge.edit("card/README.md", forge.about["weights_sha256"], "e" * 64)


@case("no card", "card/README.md: missing")
def _(forge: Forge) -> None:
    del forge.files["card/README.md"]


@case("a broken card", "no YAML front matter")
def _(forge: Forge) -> None:
    forge.files["card/README.md"] = b"# the best encoder\n"


@case("a config of another network", "has architecture 'resnet50', the card tf_efficientnet_lite0")
def _(forge: Forge) -> None:
    forge.edit("card/config.json", "tf_efficientnet_lite0", "resnet50")


@case("a card's key twice", "YAML names 'pretraining_data' twice; readers would differ")
def _(forge: Forge) -> None:
    seen = "pretraining_data:\n- dataset: phantom\n  split: all\n  labels_seen: true\n"
    forge.edit("card/README.md", "pretraining_data: []\n", f"{seen}pretraining_data: []\n")


@case("a key merged into the card", "YAML names '<<' to merge, not allowed")
def _(forge: Forge) -> None:
    forge.edit("card/README.md", "provenance:", "<<: {license_link: x}\nprovenance:")


@case("a licence as bytes, which no check of texts sees", r"not valid YAML here: tags \(.*binary\)")
def _(forge: Forge) -> None:
    forge.edit("card/README.md", "license: apache-2.0", "license: !!binary G1sySm1pdA==")
    for which in range(4):
        forge.alter(lambda c: c["declared"].update(license="\x1b[2Jmit"), which=which)


@case("front matter whose end is none", "that ends the front matter goes on; readers would differ")
def _(forge: Forge) -> None:
    forge.edit("card/README.md", "\n---\n", "\n---x\nlicense_link: elsewhere\n---\n")


@case("text turned around in a comment", r"front matter holds the control character '\\u202e'")
def _(forge: Forge) -> None:
    forge.edit("card/README.md", "pretraining_data", "# not \u202e seen\npretraining_data")


@case("an order for the terminal below the card", r"holds '\\x1b', which a terminal obeys or")
def _(forge: Forge) -> None:
    forge.files["card/README.md"] += b"\x1b[2J"


@case("a row of one's own in Markdown", r"license 'mit.*' is no line of at most 200 characters")
def _(forge: Forge) -> None:
    row = "mit |\n| best | 0.99"
    forge.edit("card/README.md", "license: apache-2.0", f"license: {json.dumps(row)}")
    for which in range(4):
        forge.alter(lambda c: c["declared"].update(license=row), which=which)


TRAINED = "- method: moco\n  data: {}\n  init: {}\n"
UNTRAINED = (
    "- method: none\n  data: null\n  init: random\n"
    "  source: timm initialisation of tf_efficientnet_lite0\n"
)
PHOTOGRAPHS = "pretraining_data:\n- dataset: imagenet-1k\n"


@case("trained on nothing", r"is \[\], but its strategy trains: moco on cxr")
def _(forge: Forge) -> None:
    forge.edit("card/README.md", UNTRAINED, TRAINED.format("cxr", "random"))


@case("data of the strategy left out", "leaves out phantom, which the last stage")
def _(forge: Forge) -> None:
    forge.edit("card/README.md", UNTRAINED, TRAINED.format("imagenet-1k + phantom", "random"))
    forge.edit("card/README.md", "pretraining_data: []\n", PHOTOGRAPHS)


@case("a start from itself", "a stage starts from my-encoder, the encoder itself")
def _(forge: Forge) -> None:
    forge.edit("card/README.md", UNTRAINED, TRAINED.format("cxr", "my-encoder"))
    forge.edit("card/README.md", "pretraining_data: []\n", PHOTOGRAPHS)


@case("data of an encoder of the zoo left out", "leaves out chexpert, nih14, which medmae-")
def _(forge: Forge) -> None:
    stage = TRAINED.format("imagenet-1k", "medmae-densenet121-mae")
    forge.edit("card/README.md", UNTRAINED, stage)
    whole = f"data_of_all_stages: true\n{PHOTOGRAPHS}"
    forge.edit("card/README.md", "pretraining_data: []\n", whole)


@case("a config with more in it", "config.json: holds more or less than architecture, golden")
def _(forge: Forge) -> None:
    forge.edit("card/config.json", "{", '{"input": {"size_px": 1},')


@case("a golden output of texts", "config.json: has no golden output as `cxrzoo convert` writes it")
def _(forge: Forge) -> None:
    forge.edit("card/config.json", "0.948734", '"<script>"')


# Values that readers take in other ways


@case("a score as a text", "macro.auroc: Input should be a valid number")
def _(forge: Forge) -> None:
    forge.alter(lambda c: score(c)["macro"].update(auroc=str(score(c)["macro"]["auroc"])))


@case("a flag as a text, which is true", "exposure.labels_seen: Input should be a valid boolean")
def _(forge: Forge) -> None:
    forge.alter(lambda c: c["declared"]["exposure"].update(labels_seen="false"))


@case("an integer that no float holds", "holds 10{19}, too large for many readers")
def _(forge: Forge) -> None:
    forge.alter(lambda c: c["cost"].update(seconds=10**400))


@case("time to spare", "cost.seconds is -5, which nothing costs")
def _(forge: Forge) -> None:
    forge.alter(lambda c: c["cost"].update(seconds=-5))


@case("praise in the search", "result: search.praise: unknown field")
def _(forge: Forge) -> None:
    forge.alter(lambda c: c["result"]["search"].update(praise="<script>"))


@case("HTML for a key", "env names '<script>', which nothing measures")
def _(forge: Forge) -> None:
    forge.alter(lambda c: c["env"].update({"<script>": 1}))


@case("HTML for a platform", "env.platform is no number and no short text")
def _(forge: Forge) -> None:
    forge.alter(lambda c: c["env"].update(platform="<img src=x onerror=alert(1)>"))


@case(
    "a note about twins a thousand times", "has other notes than the benchmark: .*pixel for pixel"
)
def _(forge: Forge) -> None:
    twins = "3 test images are in the training split too, pixel for pixel"
    forge.alter(lambda c: c["declared"]["notes"].extend([twins] * 1000))


@case("a pin that leads elsewhere", "declared: pin: String should match pattern")
def _(forge: Forge) -> None:
    forge.alter(lambda c: c["declared"].update(pin="hf:lab/../\u0430dmin@" + "a" * 40))


@case("a version that is a page", "bundle.json: cxrzoo: String should match pattern")
def _(forge: Forge) -> None:
    forge.seal()
    forge.edit(MANIFEST, f'"cxrzoo": "{__version__}"', '"cxrzoo": "<script>"')


# Predictions


@case("predictions of wrong length", r"test has shape \(59, 5\), not \(60, 5\)")
def _(forge: Forge) -> None:
    forge.predict({"test": forge.logits[:-1]})


@case("predictions of another record", "not the predictions that its record was made with")
def _(forge: Forge) -> None:
    forge.predict({"test": forge.logits[::-1]}, rehash=False)


@case("predictions that are not finite", "test holds values that are not finite")
def _(forge: Forge) -> None:
    logits = forge.logits
    logits[3, 2] = np.nan
    forge.predict({"test": logits})


@case("a test set more", "holds predictions of easy, test, and its record has scores on test")
def _(forge: Forge) -> None:
    forge.predict({"test": forge.logits, "easy": forge.logits})


@case("predictions in another type", "has type <f8; predictions are float16")
def _(forge: Forge) -> None:
    forge.predict({"test": forge.logits.astype(float)}, rehash=False)


@case("an array of objects", "is an array of Python objects, which is a pickle and runs code")
def _(forge: Forge) -> None:
    forge.predict({"test": np.array([Bomb()], dtype=object)}, rehash=False)


@case("a shape that would fill the memory", r"declares shape \(100000000000, 5\)")
def _(forge: Forge) -> None:
    header = {"descr": "<f2", "fortran_order": False, "shape": (10**11, 5)}
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, header)
    forge.predict(write_zip({"test.npy": stream.getvalue()}))


@case("a shape below zero", r"declares shape \(-60, -5\), which no predictions have")
def _(forge: Forge) -> None:
    """Its product is right."""
    header = {"descr": "<f2", "fortran_order": False, "shape": (-60, -5)}
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, header)
    forge.predict(write_zip({"test.npy": stream.getvalue() + forge.logits.tobytes()}))


@case("a shape of a hundred dimensions", r"declares shape \(60, 5, 1.*, which no predictions have")
def _(forge: Forge) -> None:
    header = {"descr": "<f2", "fortran_order": False, "shape": (60, 5) + (1,) * 100}
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, header)
    forge.predict(write_zip({"test.npy": stream.getvalue() + forge.logits.tobytes()}))


@case("two arrays of one name", r"\.npz: test has not the ending \.npy")
def _(forge: Forge) -> None:
    """numpy reads the one without the ending."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, forge.logits[::-1])
    name = forge.names[0].replace(".json", ".npz")
    with zipfile.ZipFile(io.BytesIO(forge.files[name])) as file:
        good = file.read("test.npy")
    forge.predict(write_zip({"test": stream.getvalue(), "test.npy": good}))


@case("a zip bomb for predictions", "unpacks to 100,000,128 bytes, more than 64,000,000")
def _(forge: Forge) -> None:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.zeros(50_000_000, "<f2"))
    forge.predict(write_zip({"test.npy": stream.getvalue()}))


@case("a pickle for predictions", "is no npz file, whatever its name says")
def _(forge: Forge) -> None:
    forge.predict(pickle.dumps(Bomb()))


@case("a pickle in an npz", "test.pkl is no array of an npz file")
def _(forge: Forge) -> None:
    forge.predict(write_zip({"test.pkl": pickle.dumps(Bomb())}))


@case("predictions left out", r"\.npz is missing; a record and its predictions go together")
def _(forge: Forge) -> None:
    del forge.files[forge.names[0].replace(".json", ".npz")]


# Files


@case("a pickle", "records/evil.pkl: is no part of a bundle")
def _(forge: Forge) -> None:
    forge.files["records/evil.pkl"] = pickle.dumps(Bomb())


@case("a pickle called safetensors", "card/model.safetensors: is a pickle, whatever its name says")
def _(forge: Forge) -> None:
    with_weights_file(forge)
    forge.files["card/model.safetensors"] = pickle.dumps(Bomb())


@case("weights that are nothing", "card/model.safetensors: is no safetensors file")
def _(forge: Forge) -> None:
    with_weights_file(forge)
    forge.files["card/model.safetensors"] = b"\xff" * 100


@case("other weights than those evaluated", r"are other weights \(sha256\) than the bundle and")
def _(forge: Forge) -> None:
    with_weights_file(forge)
    forge.files["card/model.safetensors"] = safetensors.numpy.save({"a": np.zeros(3)})


@case("more JSON than memory holds", "bytes of JSON, more than 50,000,000; not read")
def _(forge: Forge) -> None:
    """A zip of 50 kB."""
    for number in range(30):
        forge.files[f"records/{number}.json"] = b"[" + b"[]," * 600_000 + b"[]]"
        forge.files[f"records/{number}.npz"] = b"PK"


@case("the name of a device", r"'card/Con\.md' has the name of a device")
def _(forge: Forge) -> None:
    forge.files["card/Con.md"] = b""


@case("a file altered", "card/config.json: altered after the bundle was made")
def _(forge: Forge) -> None:
    forge.seal()
    forge.files["card/config.json"] += b" "


@case("a file not listed", "records/more.json: not listed in bundle.json")
def _(forge: Forge) -> None:
    forge.seal()
    forge.files["records/more.json"] = b"{}"


@case("a listed file taken out", "card/config.json: listed in bundle.json but missing")
def _(forge: Forge) -> None:
    forge.seal()
    del forge.files["card/config.json"]


@case("no manifest", "no bundle.json in it, so it is no bundle")
def _(forge: Forge) -> None:
    forge.sealed = False
    del forge.files[MANIFEST]


@case("a name of a file on another system", r"'card/aux.' has a name that ends in a dot")
def _(forge: Forge) -> None:
    forge.files["card/aux."] = b""


@case("two names for one file", "are one file where case does not matter")
def _(forge: Forge) -> None:
    forge.files["card/readme.md"] = b""


@archive("a path that leads out", "'../../evil.json' leads out of the bundle")
def _(forge: Forge, path: Path) -> None:
    add_member(forge, path, zipfile.ZipInfo("../../evil.json"))


@archive("an absolute path", "'/etc/evil.json' is an absolute path")
def _(forge: Forge, path: Path) -> None:
    add_member(forge, path, zipfile.ZipInfo("/etc/evil.json"))


@archive("a path of Windows", "has a backslash in its name")
def _(forge: Forge, path: Path) -> None:
    add_member(forge, path, zipfile.ZipInfo("records\\..\\evil.json"))


@archive("a drive letter", "'C:evil.json' begins with a drive letter")
def _(forge: Forge, path: Path) -> None:
    add_member(forge, path, zipfile.ZipInfo("C:evil.json"))


@archive("a link in a zip", "'card/link' is a symbolic link")
def _(forge: Forge, path: Path) -> None:
    member = zipfile.ZipInfo("card/link")
    member.create_system, member.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    add_member(forge, path, member, b"/etc/passwd")


@archive("a name twice", "holds 'card/config.json' twice")
def _(forge: Forge, path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        add_member(forge, path, zipfile.ZipInfo("card/config.json"), b"{}")


@archive("a member encrypted", "'bundle.json' is encrypted")
def _(forge: Forge, path: Path) -> None:
    content = bytearray(forge.save(path).read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)


@archive("an unusual compression", "is compressed in another way than deflate")
def _(forge: Forge, path: Path) -> None:
    member = zipfile.ZipInfo("card/more.json")
    member.compress_type = zipfile.ZIP_LZMA
    add_member(forge, path, member, b"{}")


@archive("a zip cut short", "a damaged zip file")
def _(forge: Forge, path: Path) -> None:
    path.write_bytes(forge.save(path).read_bytes()[:-40])


@archive("something else than a zip", "neither a folder nor a zip file")
def _(forge: Forge, path: Path) -> None:
    path.write_bytes(b"#!/bin/sh\n")


@archive("too many files", "holds 6,0[0-9]+ files, more than 5,000")
def _(forge: Forge, path: Path) -> None:
    forge.sealed = False
    forge.files |= {f"records/{n}.json": b"" for n in range(6000)}
    forge.save(path)


@archive("a zip bomb", "unpacks to 2,[0-9,]+ bytes, more than 2,000,000,000; nothing was unpacked")
def _(forge: Forge, path: Path) -> None:
    """What a member claims to hold is enough to refuse it."""
    content = bytearray(forge.save(path).read_bytes())
    place = content.index(b"PK\x01\x02") + 24
    content[place : place + 4] = (2_100_000_000).to_bytes(4, "little")
    path.write_bytes(content)


class Bomb:
    """What runs code when it is unpickled."""

    def __reduce__(self) -> Any:
        return (pytest.fail, ("a pickle was opened",))


def with_weights_file(forge: Forge) -> None:
    forge.edit("card/README.md", "  seed: 0\n", "  file: model.safetensors\n")


def add_member(forge: Forge, path: Path, member: zipfile.ZipInfo, content: bytes = b"{}") -> None:
    forge.save(path)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(member, content)


@pytest.fixture(scope="module")
def reports(sound: Bundle, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Report]:
    """Every tampered bundle, validated."""
    folder = tmp_path_factory.mktemp("tampered")
    found = {}
    evidence = Evidence([])
    for number, (name, (tamper, _)) in enumerate(CASES.items()):
        forge = Forge(sound)
        tamper(forge)
        found[name] = validate(forge.save(folder / f"{number}.zip"), evidence=evidence)
    for number, (name, (spoil, _)) in enumerate(ARCHIVES.items()):
        path = folder / f"archive-{number}.zip"
        spoil(Forge(sound), path)
        found[name] = validate(path)
    return found


ALL = CASES | ARCHIVES  # type: ignore[operator]


@pytest.mark.parametrize("name", ALL)
def test_a_tampered_bundle_is_refused_by_a_message_of_its_own(reports, name):
    message, first = ALL[name][1], {n: report.problems[0] for n, report in reports.items()}
    assert re.search(message, first[name]), reports[name].problems
    assert [other for other in ALL if re.search(message, first[other])] == [name]


def test_the_untouched_bundle_passes(sound, tmp_path):
    report = validate(Forge(sound).save(tmp_path / "b.zip"))
    assert report.problems == []
    assert (report.tier, len(report.recomputed), len(report.records)) == ("recomputed", 4, 4)


def test_a_setting_that_is_equal_and_hashes_differently_is_another(sound, tmp_path):
    """Else one experiment has as many run keys as its numbers have types."""
    forge = Forge(sound)

    def as_float(content: dict[str, Any]) -> None:
        settings = content["spec"]["protocol"]
        key = next(key for key, value in settings.items() if type(value) is int)
        settings[key] = float(settings[key])

    forge.alter(as_float)
    (problem,) = validate(forge.save(tmp_path / "b.zip")).problems
    assert "protocol 'linear-v1' has not the settings of linear-v1" in problem


def test_all_problems_are_listed_at_once_each_with_its_file(sound, tmp_path):
    forge = Forge(sound)
    forge.alter(lambda c: c["spec"]["budget"].update(subset_sha256="5" * 64), which=0)
    forge.alter(lambda c: c["declared"].update(strategy="magic"), which=1)
    forge.files["records/evil.pkl"] = b"x"
    problems = validate(forge.save(tmp_path / "b.zip")).problems
    assert len(problems) == 3
    assert len({problem.split(":")[0] for problem in problems}) == 3


def test_what_a_terminal_would_obey_is_not_printed(sound, tmp_path):
    forge = Forge(sound)
    forge.alter(lambda c: score(c)["macro"].update({"\x1b[2J": 1}))
    (problem,) = validate(forge.save(tmp_path / "b.zip")).problems
    assert "unknown field" in problem
    assert problem.isprintable()
