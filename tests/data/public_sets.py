"""Small copies of the public sets in their publishers' layouts, with the truth about each row.

Where torchxrayvision bundles the publisher's table, a copy holds whole patients of it; else a
table with the columns that the publisher documents. The truth is worked out here, from the raw
table and without torchxrayvision's classes. Images are one tiny picture under every name.
"""

from __future__ import annotations

import ast
import functools
import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
from PIL import Image

from tests.data.helpers import png

PICTURE = png(np.arange(64, dtype=np.uint8).reshape(8, 8))
NAN = float("nan")

CHEXPERT_LABELS = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion",
    "Enlarged Cardiomediastinum", "Fracture", "Lung Lesion", "Lung Opacity", "Pleural Other",
    "Pneumonia", "Pneumothorax", "Support Devices",
)  # fmt: skip
NIH_LABELS = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema", "Fibrosis",
    "Hernia", "Infiltration", "Mass", "Nodule", "Pleural_Thickening", "Pneumonia", "Pneumothorax",
)  # fmt: skip


@dataclass(frozen=True)
class Truth:
    """What a row must be: labels by name, patient, and split where the publisher says."""

    patient: str
    labels: dict[str, float]
    split: str | None = None


Copy = dict[str, Truth]
"""Truth by image id."""


def make(name: str, root: Path, seed: int = 0) -> Copy:
    """Write a copy of ``name`` below ``root``, its tables in the order of ``seed``."""
    if name not in MAKERS:
        raise NotImplementedError(
            f"no test copy of {name}: write one in tests/data/public_sets.py, so that its file is "
            "tested through the class that reads it"
        )
    return MAKERS[name](root / name, np.random.default_rng(seed))


# Tables and files ----------------------------------------------------------------------------


@functools.cache
def bundled(file: str) -> pd.DataFrame:
    """A table that comes with torchxrayvision."""
    return pd.read_csv(bundled_path(file), low_memory=False)


def bundled_path(file: str) -> Path:
    import torchxrayvision as xrv

    return Path(xrv.datasets.datapath) / file


def whole_patients(frame: pd.DataFrame, key: str, rows: int = 300) -> pd.DataFrame:
    """About ``rows`` rows, whole patients: half of them from patients of several images."""
    sizes = frame.groupby(key).size()
    rng = np.random.default_rng(0)
    chosen: list[Any] = []
    for group in (sizes[(sizes > 1) & (sizes < 12)], sizes[sizes == 1]):
        order = rng.permutation(len(group))
        total = group.to_numpy()[order].cumsum()
        chosen += group.index[order][total <= rows // 2].tolist()
    return frame[frame[key].isin(chosen)].copy()


def shuffled(frame: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    return frame.iloc[rng.permutation(len(frame))]


def write_csv(path: Path, frame: pd.DataFrame, rng: np.random.Generator) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shuffled(frame, rng).to_csv(path, index=False)


def write_pictures(folder: Path, names: Iterable[str], content: bytes = PICTURE) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def jpeg() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(file, "JPEG")
    return file.getvalue()


# Sets whose table is bundled -----------------------------------------------------------------


def nih_truth(row: Any) -> Truth:
    found = set(row["Finding Labels"].split("|"))
    return Truth(str(row["Patient ID"]), {label: float(label in found) for label in NIH_LABELS})


def nih14(folder: Path, rng: np.random.Generator) -> Copy:
    frame = whole_patients(bundled("Data_Entry_2017_v2020.csv.gz"), "Patient ID")
    write_csv(folder / "Data_Entry_2017_v2020.csv", frame, rng)
    names = frame["Image Index"].tolist()
    for part in range(12):  # as the archives unpack
        write_pictures(folder / "images" / f"images_{part + 1:03d}" / "images", names[part::12])
    return {row["Image Index"]: nih_truth(row) for row in frame.to_dict("records")}


def nih_google(folder: Path, rng: np.random.Generator) -> Copy:
    frame = whole_patients(bundled("google2019_nih-chest-xray-labels.csv.gz"), "Patient ID")
    write_csv(folder / "google2019_nih-chest-xray-labels.csv", frame, rng)
    write_pictures(folder / "images", frame["Image Index"])
    columns = {"Lung Opacity": "Airspace opacity", "Nodule/Mass": "Nodule or mass"}
    return {
        row["Image Index"]: Truth(
            str(row["Patient ID"]),
            {
                label: float(row[columns.get(label, label)] == "YES")
                for label in ("Fracture", "Lung Opacity", "Nodule/Mass", "Pneumothorax")
            },
            {"val": "train", "test": "test"}[row["Set Id"]],
        )
        for row in frame.to_dict("records")
    }


def rsna(folder: Path, rng: np.random.Generator) -> Copy:
    """Images of the challenge, and originals of NIH made up: two or more of some patients."""
    labels = bundled("kaggle_stage_2_train_labels.csv.zip")
    headers = bundled("kaggle_stage_2_train_images_dicom_headers.csv.gz")
    ids = sorted(labels.patientId.unique())[:300]
    write_csv(folder / "stage_2_train_labels.csv", labels[labels.patientId.isin(ids)], rng)
    write_csv(
        folder / "kaggle_stage_2_train_images_dicom_headers.csv",
        headers[headers.PatientID.isin(ids)],
        rng,
    )
    originals = {i: f"{n // 2 + 1:08d}_{n % 2:03d}.png" for n, i in enumerate(ids)}
    table = [{"subset_img_id": i, "img_id": originals[i]} for i in rng.permutation(ids).tolist()]
    path = folder / "pneumonia-challenge-dataset-mappings_2018.json"
    path.write_text(json.dumps(table))
    for extension, names in ((".jpg", ids[::2]), (".png", ids[1::2])):
        content = jpeg() if extension == ".jpg" else PICTURE
        write_pictures(folder / "images", [i + extension for i in names], content)
    positive = set(labels.patientId[labels.Target == 1])
    return {
        i: Truth(originals[i].split("_")[0], {"Lung Opacity": float(i in positive)}) for i in ids
    }


def chexpert_truth(row: Any, patient: str, split: str | None, names: dict[str, str]) -> Truth:
    """CheXpert's table: -1 and empty are unknown; 'No Finding' denies all but devices."""
    labels = {}
    for label in CHEXPERT_LABELS:
        value = row[names.get(label, label)]
        healthy = row["No Finding"] == 1 and label != "Support Devices"
        labels[label] = 0.0 if healthy else (NAN if value == -1 or pd.isna(value) else float(value))
    return Truth(patient, labels, split)


EFFUSION = {"Effusion": "Pleural Effusion"}


def chexpert(folder: Path, rng: np.random.Generator) -> Copy:
    frame = bundled("chexpert_train.csv.gz").copy()
    frame["patient"] = frame.Path.str.split("/").str[2]
    frame = whole_patients(frame, "patient", 400)
    lateral = frame["Frontal/Lateral"] == "Lateral"
    write_csv(folder / "train.csv", frame.drop(columns="patient"), rng)
    # the validation set: patients of their own, no uncertain labels
    valid = whole_patients(frame[~lateral], "patient", 60).replace({-1.0: 1.0})
    valid["patient"] = [f"patient9{p[-4:]}" for p in valid.patient]
    numbers = range(1, len(valid) + 1)
    valid["Path"] = [
        f"CheXpert-v1.0-small/valid/{p}/study{n}/view1_frontal.jpg"
        for n, p in zip(numbers, valid.patient, strict=True)
    ]
    write_csv(folder / "valid.csv", valid.drop(columns="patient"), rng)
    copy = {}
    for part, split in ((frame[~lateral], None), (valid, "valid")):
        for row in part.to_dict("records"):
            image = row["Path"].removeprefix("CheXpert-v1.0-small/")
            copy[image] = chexpert_truth(row, row["patient"], split, EFFUSION)
    write_pictures(folder, copy, jpeg())
    return copy


VINDR_CLASSES = {
    "Aortic enlargement": "Aortic enlargement", "Atelectasis": "Atelectasis",
    "Calcification": "Calcification", "Cardiomegaly": "Cardiomegaly",
    "Consolidation": "Consolidation", "Effusion": "Pleural effusion", "ILD": "ILD",
    "Infiltration": "Infiltration", "Lung Opacity": "Lung Opacity", "Nodule/Mass": "Nodule/Mass",
    "Other Lesion": "Other lesion", "Pleural_Thickening": "Pleural thickening",
    "Pneumothorax": "Pneumothorax", "Pulmonary Fibrosis": "Pulmonary fibrosis",
}  # fmt: skip


def vindr_votes(frame: pd.DataFrame) -> dict[str, dict[str, int]]:
    """How many readers marked each label, by image."""
    marked: dict[str, dict[str, set[str]]] = {}
    for image, finding, reader in frame[["image_id", "class_name", "rad_id"]].itertuples(
        index=False
    ):
        marked.setdefault(image, {}).setdefault(finding, set()).add(reader)
    return {
        image: {label: len(of.get(name, ())) for label, name in VINDR_CLASSES.items()}
        for image, of in marked.items()
    }


def vindr(folder: Path, rng: np.random.Generator) -> Copy:
    frame = bundled("vinbigdata-train.csv.gz")
    sick = frame[frame.class_name != "No finding"]
    ids = [*sick.image_id.unique()[:200], *frame.image_id.unique()[:100]]
    frame = frame[frame.image_id.isin(ids)]
    write_csv(folder / "train.csv", frame, rng)
    votes = vindr_votes(frame)
    write_pictures(folder / "train", [f"{i}.png" for i in votes])
    return {
        image: Truth(image, {label: float(n >= 2) for label, n in counts.items()})
        for image, counts in votes.items()
    }


def siim(folder: Path, rng: np.random.Generator) -> Copy:
    frame = bundled("siim-pneumothorax-train-rle.csv.gz")
    masks = frame.groupby("ImageId").size()
    ids = [*masks[masks > 1].index[:60], *masks[masks == 1].index[:240]]
    frame = frame[frame.ImageId.isin(ids)]
    write_csv(folder / "train-rle.csv", frame, rng)
    for n, image in enumerate(ids):  # as Kaggle's archive unpacks: study/series/image
        write_pictures(folder / "images" / f"study{n}" / f"series{n}", [f"{image}.png"])
    positive = set(frame.ImageId[frame[" EncodedPixels"] != "-1"])
    return {i: Truth(i, {"Pneumothorax": float(i in positive)}) for i in ids}


PADCHEST_WORDS = {
    "Consolidation": ("consolidation", "air bronchogram"),
    "Hilar Enlargement": ("hilar enlargement", "adenopathy", "pulmonary artery enlargement"),
    "Infiltration": (
        "infiltration", "infiltrates", "interstitial pattern", "ground glass pattern",
        "reticular interstitial pattern", "reticulonodular interstitial pattern",
        "alveolar pattern", "consolidation", "air bronchogram",
    ),
    "Pleural_Thickening": ("pleural_thickening", "pleural thickening"),
    "Support Devices": ("support devices", "device", "pacemaker"),
}  # fmt: skip


def padchest_positive(label: str, findings: list[str]) -> bool:
    if label == "Tube":
        return any(finding.endswith(("tube", "stent")) for finding in findings)
    words = PADCHEST_WORDS.get(label, (label.lower(),))
    return any(word in finding for word in words for finding in findings)


PADCHEST_LABELS = (
    "Air Trapping", "Aortic Atheromatosis", "Aortic Elongation", "Atelectasis", "Bronchiectasis",
    "Cardiomegaly", "Consolidation", "Costophrenic Angle Blunting", "Edema", "Effusion",
    "Emphysema", "Fibrosis", "Flattened Diaphragm", "Fracture", "Granuloma",
    "Hemidiaphragm Elevation", "Hernia", "Hilar Enlargement", "Infiltration", "Mass", "Nodule",
    "Pleural_Thickening", "Pneumonia", "Pneumothorax", "Scoliosis", "Support Devices", "Tube",
    "Tuberculosis",
)  # fmt: skip


def padchest(folder: Path, rng: np.random.Generator) -> Copy:
    file = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
    frame = whole_patients(bundled(f"{file}.gz"), "PatientID", 500)
    write_csv(folder / file, frame, rng)
    used = frame[
        frame.Projection.isin(["PA", "AP", "AP_horizontal"])
        & frame.Labels.notna()
        & (frame.PatientBirth < 2009)
    ]
    write_pictures(folder / "images", (used.ImageDir.astype(str) + "/" + used.ImageID).tolist())
    copy = {}
    for row in used.to_dict("records"):
        findings = ast.literal_eval(row["Labels"])
        labels = {label: float(padchest_positive(label, findings)) for label in PADCHEST_LABELS}
        copy[row["ImageID"]] = Truth(str(row["PatientID"]), labels)
    return copy


OPENI_LABELS = (
    "Atelectasis", "Calcified Granuloma", "Cardiomegaly", "Edema", "Effusion", "Emphysema",
    "Fracture", "Granuloma", "Hernia", "Infiltration", "Lung Opacity", "Nodule", "Pneumonia",
)  # fmt: skip
OPENI_WORDS = {label: (label.lower(),) for label in OPENI_LABELS} | {
    "Atelectasis": ("atelectasis", "atelectases"),
    "Infiltration": ("infiltration", "infiltrate"),
    "Lung Opacity": ("opacity",),
}


def openi(folder: Path, rng: np.random.Generator) -> Copy:
    """300 of the release's reports, in an archive of their own."""
    folder.mkdir(parents=True)
    views = dict(bundled("nlmcxr_tsne_pa.csv.gz").to_numpy().tolist())
    copy: Copy = {}
    with (
        tarfile.open(bundled_path("NLMCXR_reports.tgz")) as release,
        tarfile.open(folder / "NLMCXR_reports.tgz", "w:gz") as ours,
    ):
        reports = [m for m in release.getmembers() if m.name.endswith(".xml")][:300]
        contents = {m.name: release.extractfile(m).read() for m in reports}  # type: ignore[union-attr]
        for index in rng.permutation(len(reports)):
            member = reports[index]
            ours.addfile(member, io.BytesIO(contents[member.name]))
            report = ElementTree.fromstring(contents[member.name])
            terms = [str(node.text).lower() for node in report.findall(".//MeSH/automatic")]
            uid = report.find("uId").attrib["id"]  # type: ignore[union-attr]
            for image in report.findall(".//parentImage"):
                if views.get(image.attrib["id"]) == "PA":
                    labels = {
                        label: float(any(word in term for word in words for term in terms))
                        for label, words in OPENI_WORDS.items()
                    }
                    copy[image.attrib["id"]] = Truth(uid, labels)
    write_pictures(folder / "images", [f"{i}.png" for i in copy])
    return copy


# Sets whose table is made after the publisher's documentation ------------------------------


def uncertain_labels(count: int) -> pd.DataFrame:
    """CheXpert's columns: 1, 0, -1 and empty."""
    values = np.random.default_rng(1).choice(
        [1.0, 0.0, -1.0, NAN], (count, len(CHEXPERT_LABELS)), p=[0.3, 0.2, 0.1, 0.4]
    )
    names = [EFFUSION.get(label, label) for label in CHEXPERT_LABELS]
    frame = pd.DataFrame(values, columns=names)
    frame["No Finding"] = np.where(np.arange(count) % 9 == 0, 1.0, NAN)
    return frame


def mimic(folder: Path, rng: np.random.Generator) -> Copy:
    """Two studies a patient, each with a PA or AP image and a lateral one."""
    studies = uncertain_labels(240)
    studies.insert(0, "subject_id", [10_000_000 + 77 * (n // 2) for n in range(240)])
    studies.insert(1, "study_id", [50_000_000 + n for n in range(240)])
    images, copy, pictures = [], {}, []
    for n, row in enumerate(studies.to_dict("records")):
        patient, study = int(row["subject_id"]), int(row["study_id"])
        published = ("train", "validate", "test", "train")[n // 2 % 4]
        for view in (("PA", "AP")[n % 2], "LATERAL"):
            dicom = f"{study:08x}-{view.lower()}"
            images.append((dicom, patient, study, view, 21_000_101, published))
            if view != "LATERAL":
                split = "test" if published == "test" else "train"
                # here "No Finding" denies devices too: so does torchxrayvision's class
                labels = chexpert_truth(row, str(patient), split, EFFUSION).labels
                if row["No Finding"] == 1:
                    labels = dict.fromkeys(CHEXPERT_LABELS, 0.0)
                copy[dicom] = Truth(str(patient), labels, split)
                pictures.append(f"p{str(patient)[:2]}/p{patient}/s{study}/{dicom}.jpg")
    columns = ["dicom_id", "subject_id", "study_id", "ViewPosition", "StudyDate", "split"]
    frame = pd.DataFrame(images, columns=columns)
    prefix = "mimic-cxr-2.0.0"
    write_csv(folder / f"{prefix}-chexpert.csv.gz", studies, rng)
    write_csv(folder / f"{prefix}-metadata.csv.gz", frame.drop(columns="split"), rng)
    lists = frame[["dicom_id", "study_id", "subject_id", "split"]]
    write_csv(folder / f"{prefix}-split.csv.gz", lists, rng)
    write_pictures(folder / "files", pictures, jpeg())
    return copy


def brax(folder: Path, rng: np.random.Generator) -> Copy:
    """Two images a patient, some without a view, one of them a thin strip."""
    frame = uncertain_labels(440)
    patients = [f"id_{n // 2:04x}" for n in range(440)]
    frame["PatientID"] = patients
    frame["PngPath"] = [
        f"images/{p}/Study_{n}.2.3/Series_{n}.4/image-{n:05d}.png" for n, p in enumerate(patients)
    ]
    frame["PatientSex"] = ["M" if n % 2 else "F" for n in range(440)]
    frame["PatientAge"] = ["85 or more" if n % 50 == 0 else str(5 * (n % 17)) for n in range(440)]
    frame["ViewPosition"] = [("PA", "AP", "L", NAN)[n % 4] for n in range(440)]
    frame["Manufacturer"] = [f"Maker {n % 3}" for n in range(440)]
    frame["Rows"] = [20 if n == 4 else 2000 for n in range(440)]
    frame["Columns"] = 1500
    write_csv(folder / "master_spreadsheet_update.csv", frame, rng)
    used = frame[frame.ViewPosition.isin(["PA", "AP"]) & (frame.Rows > 20)]
    copy = {}
    for row in used.to_dict("records"):
        image = row["PngPath"].removeprefix("images/")
        copy[image] = chexpert_truth(row, row["PatientID"], None, EFFUSION)
    write_pictures(folder / "images", copy)
    return copy


def tbx11k(folder: Path, rng: np.random.Generator) -> Copy:
    names = ("ActiveTuberculosis", "ObsoletePulmonaryTuberculosis", "PulmonaryTuberculosis")
    categories = [
        {"id": n + 1, "name": name, "supercategory": "Tuberculosis"} for n, name in enumerate(names)
    ]
    copy = {}
    for published, split, count in (("train", "train", 240), ("val", "test", 80)):
        images, boxes = [], []
        for n in range(count):
            found = {0: (1,), 1: (2, 2), 2: (1, 2)}.get(n % 12, ())
            file = f"{'tb' if found else 'health'}/{published}{n:04d}.png"
            images.append({"id": n + 1, "file_name": file, "width": 512, "height": 512})
            boxes += [{"image_id": n + 1, "category_id": c, "bbox": [1, 1, 2, 2]} for c in found]
            labels = {names[0]: float(1 in found), names[1]: float(2 in found)}
            copy[file] = Truth(file, {**labels, "Tuberculosis": float(bool(found))}, split)
        content = {
            "images": [images[n] for n in rng.permutation(count)],
            "annotations": boxes,
            "categories": categories,
        }
        path = folder / "annotations" / "json" / f"TBX11K_{published}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    write_pictures(folder / "imgs", copy)
    return copy


def objectcxr(folder: Path, rng: np.random.Generator) -> Copy:
    """The release's own archives, unopened."""
    folder.mkdir(parents=True)
    copy = {}
    for published, split, count in (("train", "train", 200), ("dev", "test", 80)):
        names = [f"{published}{n:05d}.jpg" for n in range(count)]
        notes = [f"0 {n} 1 5 5;" if n % 2 else "" for n in range(count)]
        frame = pd.DataFrame({"image_name": names, "annotation": notes})
        write_csv(folder / f"{published}.csv", frame, rng)
        with zipfile.ZipFile(folder / f"{published}.zip", "w") as archive:
            for name in names:
                archive.writestr(f"{published}/{name}", jpeg())
        for name, note in zip(names, notes, strict=True):
            copy[name] = Truth(name, {"Foreign Object": float(note != "")}, split)
    return copy


def nlmtb(folder: Path, rng: np.random.Generator) -> Copy:
    copy = {}
    for where, prefix, split, count in (
        ("ChinaSet_AllFiles", "CHNCXR", None, 200),
        ("MontgomerySet", "MCUCXR", "montgomery", 60),
    ):
        names = [f"{prefix}_{n:04d}_{n % 2}.png" for n in range(1, count + 1)]
        write_pictures(folder / where / "CXR_png", names)
        for name in names:
            labels = {"Tuberculosis": float(name.endswith("_1.png"))}
            copy[name] = Truth(name.rsplit("_", 1)[0], labels, split)
    return copy


def covid19(folder: Path, rng: np.random.Generator) -> Copy:
    """Three images a patient; laterals and unknown findings among them."""
    findings = ("Pneumonia/Viral/COVID-19", "Pneumonia/Bacterial", "No Finding", "todo", "Unknown")
    views = ("PA", "AP", "AP Supine", "L")
    frame = pd.DataFrame(
        {
            "patientid": [str(1 + n // 3) if n < 290 else f"a{n}" for n in range(480)],
            "offset": [float(n % 5) if n % 4 else NAN for n in range(480)],
            "finding": [findings[n // 3 % 5] for n in range(480)],
            "view": [views[n % 4] for n in range(480)],
            "filename": [f"case-{n:03d}.{('jpg', 'png')[n % 2]}" for n in range(480)],
            "url": [f"https://www.site{n % 7}.org/case/{n}" for n in range(480)],
        }
    )
    write_csv(folder / "metadata.csv", frame, rng)
    used = frame[frame.view.isin(views[:3]) & ~frame.finding.isin(["todo", "Unknown"])]
    write_pictures(folder / "images", used.filename)
    return {
        row["filename"]: Truth(
            row["patientid"], {"COVID-19": float("COVID-19" in row["finding"].split("/"))}
        )
        for row in used.to_dict("records")
    }


# Sets in the shape of Hugging Face repositories ----------------------------------------------


def write_parquet(path: Path, columns: dict[str, list[Any]]) -> None:
    import datasets

    count = len(next(iter(columns.values())))
    images = [{"bytes": PICTURE, "path": None}] * count
    table = datasets.Dataset.from_dict({**columns, "image": images})
    path.parent.mkdir(parents=True, exist_ok=True)
    table.cast_column("image", datasets.Image()).to_parquet(path)


def kermany(folder: Path, rng: np.random.Generator) -> Copy:
    copy = {}
    for split, count in (("train", 200), ("test", 90), ("validation", 16)):
        rows = []
        for n in range(count):
            patient = f"{split}-{'person' if n % 3 else 'NORMAL'}{n // 2}"
            rows.append((f"{split}{n:04d}.jpeg", patient, int(n % 3 > 0)))
        columns = zip(*(rows[i] for i in rng.permutation(count)), strict=True)
        content = dict(zip(("filename", "patient_id", "label"), map(list, columns), strict=True))
        write_parquet(folder / "data" / f"{split}-00000-of-00001.parquet", content)
        if split != "validation":
            copy |= {f: Truth(p, {"Pneumonia": float(label)}, split) for f, p, label in rows}
    return copy


def kermany_hub(folder: Path, rng: np.random.Generator) -> Copy:
    """Rows without a name: a row is its number, so that an order is part of the set."""
    copy = {}
    for split, count in (("train", 200), ("test", 90), ("validation", 16)):
        labels = [int(n % 4 > 0) for n in range(count)]
        write_parquet(folder / "data" / f"{split}-00000-of-00001.parquet", {"label": labels})
        if split != "validation":
            for n, label in enumerate(labels):
                image = f"{split}:{n}"
                copy[image] = Truth(image, {"Pneumonia": float(label)}, split)
    return copy


def nih14_hub(folder: Path, rng: np.random.Generator) -> Copy:
    """As ``refs/convert/parquet`` has it: a folder for each split, findings as lists, no README."""
    frame = whole_patients(bundled("Data_Entry_2017_v2020.csv.gz"), "Patient ID")
    for published, part in (
        ("train", frame[::2]),
        ("validation", frame[1::4]),
        ("test", frame[3::4]),
    ):
        ordered = shuffled(part, rng)
        content = {
            "scan_id": ordered["Image Index"].tolist(),
            "patient_id": ordered["Patient ID"].tolist(),
            "labels": [text.split("|") for text in ordered["Finding Labels"]],
        }
        write_parquet(folder / "default" / published / "0000.parquet", content)
    return {row["Image Index"]: nih_truth(row) for row in frame.to_dict("records")}


MAKERS: dict[str, Callable[[Path, np.random.Generator], Copy]] = {
    "brax": brax,
    "chexpert": chexpert,
    "covid19": covid19,
    "kermany": kermany,
    "kermany-hub": kermany_hub,
    "mimic": mimic,
    "nih-google": nih_google,
    "nih14": nih14,
    "nih14-hub": nih14_hub,
    "nlmtb": nlmtb,
    "objectcxr": objectcxr,
    "openi": openi,
    "padchest": padchest,
    "rsna": rsna,
    "siim": siim,
    "tbx11k": tbx11k,
    "vindr": vindr,
}
