"""The fixtures hold what they planted, a swapped column shows, and a mistake in a folder is named."""

import shutil

import pytest
from planted import planted
from wilds_tables import COLUMNS, edit

from gentangle import InputError
from gentangle.matching.wilds_data import SETS, load_wilds
from gentangle.matching.wilds_fixtures import make_fixture


def differences(name, dataset):
    """Rows whose label, and rows whose domain, is another in the input than in the table."""
    rows = list(planted(name, dataset))
    return sum(row[0] != row[1] for row in rows), sum(row[2] != row[3] for row in rows)


def roll(column):
    def change(rows):
        values = [row[column] for row in rows]
        for row, value in zip(rows, values[-1:] + values[:-1], strict=True):
            row[column] = value

    return change


def put(row, column, value):
    def change(rows):
        rows[row][column] = value

    return change


@pytest.fixture
def copy_of(wilds_root, tmp_path):
    def copy(name):
        folder = f"{name}_v{SETS[name].version}"
        shutil.copytree(wilds_root / folder, tmp_path / folder)
        return tmp_path / folder

    return copy


@pytest.mark.parametrize("name", SETS)
def test_label_and_domain_are_in_the_inputs(name, loaded):
    assert differences(name, loaded[name]) == (0, 0)
    assert all(len(loaded[name].get_subset(split)) for split in loaded[name].split_dict)


@pytest.mark.parametrize("name", SETS)
def test_a_shifted_label_column_shows(name, copy_of):
    file, label, _ = COLUMNS[name]
    folder = copy_of(name)
    edit(folder, file, roll(label))
    labels, domains = differences(name, load_wilds(name, folder.parent))
    assert labels > 0
    assert domains == 0


@pytest.mark.parametrize("name", SETS)
def test_a_shifted_domain_column_shows(name, copy_of):
    file, _, domain = COLUMNS[name]
    folder = copy_of(name)
    edit(folder, file, roll(domain))
    assert differences(name, load_wilds(name, folder.parent))[1] > 0


def test_new_domains_are_in_val_and_test_alone(loaded):
    for name, dataset in loaded.items():
        columns = [dataset.metadata_fields.index(field) for field in SETS[name].domain]
        seen = {}
        for split in ("train", "val", "test"):
            seen[split] = set(map(tuple, dataset.get_subset(split).metadata_array[:, columns].tolist()))
        if columns:
            assert not seen["train"] & (seen["val"] | seen["test"])


@pytest.mark.parametrize("name", ["camelyon17", "amazon"])
def test_the_same_seed_gives_the_same_bytes(name, tmp_path, wilds_root):
    folder = make_fixture(name, tmp_path)
    for file in (path.relative_to(folder) for path in folder.rglob("*") if path.is_file()):
        assert (folder / file).read_bytes() == (wilds_root / folder.name / file).read_bytes()
    with pytest.raises(InputError, match="is there already"):
        make_fixture(name, tmp_path)


def test_an_unknown_name_is_named():
    with pytest.raises(InputError, match="'camelion17'.*Did you mean 'camelyon17'"):
        make_fixture("camelion17", None)
    with pytest.raises(InputError, match="'camelion17'.*Did you mean 'camelyon17'"):
        load_wilds("camelion17", None)


MISSING = {
    "camelyon17": "patches/patient_000_node_0/patch_patient_000_node_0_x_0_y_64.png",
    "civilcomments": "all_data_with_identities.csv",
    "fmow": "country_code_mapping.csv",
    "iwildcam": "train/00000003.jpg",
    "poverty": "images/landsat_poverty_img_7.npz",
    "amazon": "splits/user.csv",
}


@pytest.mark.parametrize(("name", "file"), MISSING.items())
def test_a_missing_file_is_named(name, file, copy_of):
    folder = copy_of(name)
    (folder / file).unlink()
    with pytest.raises(InputError, match=f"{file} is missing"):
        load_wilds(name, folder.parent)


LABELS = {
    "camelyon17": ("2", "Row 3 .* label 2, expected one of its 2 classes"),
    "civilcomments": ("1.5", "Row 3 .* label 1.5"),
    "fmow": ("airprt", "airprt"),
    "iwildcam": ("-1", "label -1|AssertionError"),
    "poverty": ("nan", "Row 3 .* label nan, expected a finite number"),
    "amazon": ("6", "label -1, expected one of its 5 classes"),
}


@pytest.mark.parametrize(("name", "wrong", "message"), [(name, *wrong) for name, wrong in LABELS.items()])
def test_a_label_out_of_range_is_named(name, wrong, message, copy_of):
    folder = copy_of(name)
    edit(folder, COLUMNS[name][0], put(3, COLUMNS[name][1], wrong))
    with pytest.raises(InputError, match=message):
        load_wilds(name, folder.parent)


def test_another_version_and_another_set_are_named(copy_of):
    folder = copy_of("amazon")
    with pytest.raises(InputError, match=r"no fmow_v1\.1 in .* which holds amazon_v2\.1.*gentangle wilds-fixture fmow"):
        load_wilds("fmow", folder.parent)
    (folder / "RELEASE_v2.1.txt").rename(folder / "RELEASE_v2.0.txt")
    with pytest.raises(InputError, match=r"RELEASE_v2\.1\.txt is missing \(RELEASE_v2\.0\.txt is there\)"):
        load_wilds("amazon", folder.parent)
    with pytest.raises(InputError, match="holds no data set of WILDS"):
        load_wilds("amazon", folder / "nowhere")
