"""Data of any kind: folders of class folders, and sets of tensorflow-datasets."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from larq_nobn import UserError, zoo
from larq_nobn.cli import main
from larq_nobn.datasets import (
    DATASETS,
    DataSettings,
    class_pairs,
    folder_names,
    plain_name,
    row_of,
)
from larq_nobn.networks import FAMILIES, ResNet
from larq_nobn.training import Recipe, data, publish_run, train
from larq_nobn.training.evaluation import evaluate
from larq_nobn.training.folder import data_settings
from larq_nobn.training.offload import _images
from larq_nobn.training.pictures import decode
from larq_nobn.training.streamed import StreamedImages, broken_pictures_named
from larq_nobn.tuning.searching import _hold_out
from larq_nobn.weights.card import read_card

KINDS = {
    "jpg": tf.io.encode_jpeg,
    "png": tf.io.encode_png,
}


def picture(rng, height=12, width=12, channels=3, level=128):
    """Noise around a level, by which classes can be told apart."""
    noise = rng.integers(-40, 40, (height, width, channels))
    return np.clip(level + noise, 0, 255).astype(np.uint8)


def write(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    encode = KINDS[path.suffix[1:].lower().replace("jpeg", "jpg")]
    path.write_bytes(encode(image).numpy())


@pytest.fixture
def photos(tmp_path):
    """A folder of two classes, dark and light, ten pictures each, of mixed sizes."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "Photos"
    for name, level in {"dark": 60, "light": 190}.items():
        for i in range(10):
            image = picture(rng, 16 + i, 20, level=level)
            write(folder / name / f"{i}.{'jpg' if i % 2 else 'png'}", image)
    return folder


@pytest.fixture
def parts(tmp_path):
    """The same size for all, with `train` and `val`."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "parts"
    for part, count in {"train": 6, "val": 3}.items():
        for label, name in enumerate(("a", "b", "c")):
            for i in range(count):
                image = picture(rng, level=40 + 80 * label)
                write(folder / part / name / f"{i}.png", image)
    return folder


def test_one_folder_is_divided_by_class(photos):
    images = data.load_images(str(photos))
    assert (images.train_size, images.test_size) == (16, 4)
    assert images.row.classes == ("dark", "light")
    labels = [y.numpy() for _, y in images.test_batches(8)]
    np.testing.assert_array_equal(np.concatenate(labels).sum(axis=0), [2, 2])
    train, test = (set(p.items) for p in images.pictures)
    assert not train & test
    assert len(train | test) == 20
    again = data.load_images(str(photos))
    assert set(again.pictures[1].items) == test
    half = data.load_images(str(photos), settings=DataSettings(test_share=0.5))
    assert half.test_size == 10


def test_mixed_sizes_are_measured(photos):
    row = data.load_images(str(photos)).row
    # The median of the shorter sides of 16 to 25 by 20.
    assert row.input_shape[0] in (19, 20)
    assert (row.crop, row.flip, row.num_classes) == ("resized", True, 2)
    assert row.mean == pytest.approx((0.49,) * 3, abs=0.03)
    assert row.std == pytest.approx((0.27,) * 3, abs=0.03)


def test_equal_sizes_are_taken_as_they_are(parts):
    images = data.load_images(str(parts))
    assert isinstance(images, data.Images)
    assert images.row.input_shape == (12, 12, 3)
    assert (images.row.crop, images.row.crop_padding) == ("padded", 1)
    assert (images.train_size, images.test_size) == (18, 9)
    pixels = images.train[0]
    assert images.row.mean == pytest.approx(pixels.mean((0, 1, 2)) / 255, abs=1e-4)
    assert images.row.std == pytest.approx(pixels.std((0, 1, 2)) / 255, abs=1e-4)
    first = tf.io.decode_png((parts / "train" / "a" / "0.png").read_bytes())
    np.testing.assert_array_equal(pixels[0], first)


def test_grey_pictures_stay_grey_and_are_not_mirrored(tmp_path):
    rng = np.random.default_rng(0)
    for name in "ab":
        for i in range(3):
            write(tmp_path / name / f"{i}.png", picture(rng, channels=1))
    images = data.load_images(f"{tmp_path}/")
    assert images.row.input_shape == (12, 12, 1)
    assert not images.row.flip
    assert len(images.row.mean) == 1
    # Asked for in colour, for a network that takes colour.
    colour = DataSettings(mean=(0.5,) * 3, std=(0.2,) * 3)
    images = data.load_images(f"{tmp_path}/", settings=colour)
    assert images.train[0].shape[1:] == (12, 12, 3)


@pytest.mark.parametrize("crop", ["padded", "none", "resized"])
def test_memory_and_disk_give_the_same_test_images(photos, crop):
    def load(storage):
        settings = DataSettings(size=16, crop=crop, storage=storage)
        return data.load_images(str(photos), settings=settings)

    memory, disk = load("memory"), load("disk")
    assert isinstance(memory, data.Images) == (crop != "resized")
    assert isinstance(disk, StreamedImages)
    for (x, y), (other, labels) in zip(
        memory.test_batches(4), disk.test_batches(4), strict=True
    ):
        np.testing.assert_array_equal(x, other)
        np.testing.assert_array_equal(y, labels)
    for images in (memory, disk):
        x, y = next(iter(images.train_batches(16, 0, 0)))
        assert x.shape == (16, 16, 16, 3)
        # Levels tell the classes apart, so labels are those of their images.
        levels = x.numpy().mean((1, 2, 3))
        assert levels[y[:, 0] == 1].max() < levels[y[:, 1] == 1].min()
        again, _ = next(iter(images.train_batches(16, 0, 0)))
        np.testing.assert_array_equal(x, again)
        *_, last = images.train_batches(5, 0, 0)
        rest, _ = next(iter(images.train_batches(5, 0, 0, start=2)))
        np.testing.assert_array_equal(rest, last[0])


def test_storage_goes_by_bytes(parts, monkeypatch):
    assert isinstance(data.load_images(str(parts)), data.Images)
    monkeypatch.setattr(data, "MEMORY_BYTES", 27 * 12 * 12 * 3 - 1)
    assert isinstance(data.load_images(str(parts)), StreamedImages)


def test_scaled_images_show_the_middle(tmp_path):
    """A wide picture, black but for its middle square."""
    image = np.zeros((20, 40, 3), np.uint8)
    image[:, 10:30] = 200
    for name in "ab":
        for i in range(2):
            write(tmp_path / name / f"{i}.png", image)
    settings = DataSettings(size=10, crop="none")
    x, _ = data.load_images(f"{tmp_path}/", settings=settings).train
    assert x[0, :, 1:-1].min() >= 199
    assert x.shape == (2, 10, 10, 3)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_channels(channels):
    image = picture(np.random.default_rng(0), channels=channels)
    encoded = tf.io.encode_png(image)
    shown = image[..., : 1 if channels < 3 else 3]
    np.testing.assert_array_equal(decode(encoded), shown)
    np.testing.assert_array_equal(
        decode(encoded, 3), np.broadcast_to(shown, (12, 12, 3))
    )
    assert decode(encoded, 1).shape == (12, 12, 1)


@pytest.mark.parametrize(
    ("mode", "suffix", "channels"),
    [
        ("RGB", "bmp", 3),
        ("P", "gif", 3),
        ("CMYK", "jpg", 3),
        ("L", "jpg", 1),
        ("P", "png", 3),
        ("I;16", "png", 1),
    ],
)
def test_kinds_of_files(tmp_path, mode, suffix, channels):
    image = Image.new(mode, (6, 5))
    path = tmp_path / f"a.{suffix}"
    image.save(path)
    encoded = tf.constant(path.read_bytes())
    assert decode(encoded).shape == (5, 6, channels)
    assert decode(encoded, 3).shape == (5, 6, 3)


def test_grey_pictures_of_mixed_sizes(tmp_path):
    rng = np.random.default_rng(0)
    for name in "ab":
        for i in range(4):
            image = picture(rng, 12 + i, 14, channels=1)
            write(tmp_path / name / f"{i}.{'jpg' if i % 2 else 'png'}", image)
    images = data.load_images(f"{tmp_path}/")
    assert (images.row.crop, images.row.input_shape[-1]) == ("resized", 1)
    x, _ = next(iter(images.train_batches(6, 0, 0)))
    assert x.shape[-1] == 1
    assert np.isfinite(x).all()


def test_a_search_holds_out_training_images(photos):
    tested = set(data.load_images(str(photos)).pictures[1].items)
    held = _hold_out(tiny(photos, model="reactnet18"), None)
    train, test = (set(p.items) for p in held.pictures)
    assert (held.train_size, held.test_size) == (12, 4)
    assert not train & test
    assert not (train | test) & tested


def test_what_is_exported_lies_in_memory(photos):
    recipe = tiny(photos, model="reactnet18", size=16)
    with pytest.raises(UserError, match="crop='resized'. Fix: crop=padded"):
        _images(recipe, None)
    images = _images(recipe.replace(crop="padded"), None)
    assert images.train[0].shape == (16, 16, 16, 3)


def test_a_limit_takes_all_classes(photos):
    images = data.load_images(str(photos), limit=8)
    assert (images.train_size, images.test_size) == (8, 4)
    _, labels = next(iter(images.train_batches(8, 0, 0)))
    assert labels.numpy().sum(axis=0).min() > 0
    assert images.row == data.load_images(str(photos)).row


def test_tiny_imagenets_layout(tmp_path):
    rng = np.random.default_rng(0)
    wnids = [f"n{i:08}" for i in range(200)]
    lines = []
    for i, name in enumerate(wnids):
        write(tmp_path / "train" / name / "images" / "a.JPEG", picture(rng, 64, 64))
        (tmp_path / "train" / name / f"{name}_boxes.txt").write_text("a.JPEG\t0\n")
        write(tmp_path / "val" / "images" / f"{199 - i:03}.JPEG", picture(rng, 64, 64))
        lines.append(f"{199 - i:03}.JPEG\t{name}\t0\t0\t9\t9\n")
    (tmp_path / "val" / "val_annotations.txt").write_text("".join(lines))
    images = data.load_images("tiny_imagenet", str(tmp_path))
    assert images.row.input_shape == (64, 64, 3)
    assert images.row.classes == tuple(wnids)
    np.testing.assert_array_equal(images.test[1], range(199, -1, -1))
    recipe = Recipe(name="r", dataset="tiny_imagenet", model="reactnet18")
    assert recipe.network.num_classes == 200
    assert recipe.described_by(images.row).classes == tuple(wnids)
    (tmp_path / "val" / "val_annotations.txt").write_text("b.JPEG\tn00000000\n")
    with pytest.raises(UserError, match="must name a picture and a class"):
        data.load_images("tiny_imagenet", str(tmp_path))


def remove(folder):
    for path in folder.iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: remove(f / "val" / "b"), "val/b, which holds none"),
        (
            lambda f: (f / "val" / "b").rename(f / "val" / "d"),
            "must have the same classes. Received: only one of them has b, d",
        ),
        (
            lambda f: (f / "train" / "a" / "notes.pdf").write_text("x"),
            "must hold pictures, .*notes.pdf",
        ),
        (lambda f: (f / "train" / "a" / "x.webp").touch(), "x.webp"),
        (
            lambda f: (f / "train" / "a" / "0.png").write_text("no picture"),
            "readable JPEG, PNG, BMP or GIF. Received: .*train/a/0.png",
        ),
        (
            lambda f: (f / "val" / "c" / "2.png").write_bytes(
                (f / "val" / "c" / "2.png").read_bytes()[:-30]
            ),
            "readable JPEG.*Received: .*val/c/2.png",
        ),
    ],
)
@pytest.mark.parametrize("storage", ["memory", "disk"])
def test_spoilt_folders(parts, spoil, message, storage):
    def read():
        images = data.load_images(str(parts), settings=DataSettings(storage=storage))
        with broken_pictures_named(images):
            list(images.test_batches(4))

    spoil(parts)
    with pytest.raises(UserError, match=message):
        read()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("photos", r"fix|a path a / in it, for example ./photos"),
        ("./nowhere", "nowhere, which is not there"),
        ("tfds:", "must be one of 'cifar10'"),
        ("tfds:no_such_set", "no_such_set must be readable through"),
    ],
)
def test_wrong_names(name, message, tmp_path):
    with pytest.raises(UserError, match=message):
        data.load_images(name, str(tmp_path))


def test_a_folder_without_classes(tmp_path):
    with pytest.raises(UserError, match="two classes or more.*with no class folders"):
        data.load_images(f"{tmp_path}/")
    write(tmp_path / "a" / "0.png", picture(np.random.default_rng(0)))
    write(tmp_path / "b" / "0.png", picture(np.random.default_rng(0)))
    with pytest.raises(UserError, match="must hold two pictures or more"):
        data.load_images(f"{tmp_path}/")


def test_sets_of_class_folders_need_their_folder():
    with pytest.raises(UserError, match="imagewoof must be a folder with train/CLASS"):
        data.load_images("imagewoof")


def test_a_part_of_imagenet_needs_its_classes(parts):
    with pytest.raises(UserError, match="must have 10 classes. Received: 3"):
        data.load_images("imagewoof", str(parts))


def test_digits_have_one_size():
    with pytest.raises(UserError, match="digits have one size"):
        data.load_images("digits", settings=DataSettings(size=16))


@pytest.fixture
def prepared(tmp_path):
    """Prepares a set of tensorflow-datasets of our own; gives its folder."""
    import tensorflow_datasets as tfds

    def prepare(features, parts):
        with tfds.core.registered.skip_registration():

            class MyShapes(tfds.core.GeneratorBasedBuilder):
                VERSION = tfds.core.Version("1.0.0")

                def _info(self):
                    return tfds.core.DatasetInfo(builder=self, features=features)

                def _split_generators(self, dl_manager):
                    return {
                        part: ((str(i), row) for i, row in enumerate(rows))
                        for part, rows in parts.items()
                    }

                def _generate_examples(self):
                    raise NotImplementedError

        MyShapes(data_dir=tmp_path / "tfds").download_and_prepare()
        return str(tmp_path / "tfds")

    return prepare


def shapes(label="label", size=None, count=12):
    import tensorflow_datasets as tfds

    rng = np.random.default_rng(0)
    features = tfds.features.FeaturesDict(
        {
            "picture": tfds.features.Image(shape=(size, size, 3)),
            label: tfds.features.ClassLabel(names=["round", "square"]),
        }
    )
    rows = [
        {"picture": picture(rng, 12, 12, level=60 + 120 * (i % 2)), label: i % 2}
        for i in range(count)
    ]
    return features, rows


def test_a_builder_of_ones_own(prepared):
    features, rows = shapes()
    folder = prepared(features, {"train": rows, "validation": rows[:4]})
    images = data.load_images("tfds:my_shapes", folder)
    assert (images.train_size, images.test_size) == (12, 4)
    assert images.row.classes == ("round", "square")
    expected = {row["picture"].tobytes() for row in rows}
    assert {x.tobytes() for x in images.train[0]} == expected
    # By its folder, too.
    same = data.load_images(f"{folder}/my_shapes/1.0.0")
    np.testing.assert_array_equal(same.train[0], images.train[0])
    assert same.row == images.row


def test_a_builder_without_a_test_part(prepared):
    features, rows = shapes()
    folder = prepared(features, {"train": rows})
    images = data.load_images("tfds:my_shapes", folder)
    assert (images.train_size, images.test_size) == (10, 2)
    assert sorted(images.test[1]) == [0, 1]


def test_a_large_builder_is_read_from_disk(prepared, monkeypatch):
    from larq_nobn.training import prepared as module

    features, rows = shapes()
    folder = prepared(features, {"train": rows})
    monkeypatch.setattr(module, "_READ_BYTES", 0)
    settings = DataSettings(crop="resized", storage="disk")
    images = data.load_images("tfds:my_shapes", folder, settings=settings)
    assert (images.train_size, images.test_size) == (10, 2)
    x, y = next(iter(images.train_batches(10, 0, 0)))
    assert x.shape == (10, 12, 12, 3)
    levels = x.numpy().mean((1, 2, 3))
    assert levels[y[:, 0] == 1].max() < levels[y[:, 1] == 1].min()
    held = images.held_out(0.2, 0)
    assert (held.train_size, held.test_size) == (8, 2)
    assert data.load_images("tfds:my_shapes", folder, 4, settings).train_size == 4


def test_a_builder_without_labels(prepared):
    import tensorflow_datasets as tfds

    features = tfds.features.FeaturesDict({"picture": tfds.features.Image()})
    image = picture(np.random.default_rng(0))
    folder = prepared(features, {"train": [{"picture": image}]})
    with pytest.raises(UserError, match=r"must have an image .* features picture"):
        data.load_images("tfds:my_shapes", folder)


def test_secret_labels(prepared):
    features, rows = shapes()
    secret = [{**row, "label": -1} for row in rows[:4]]
    folder = prepared(features, {"train": rows, "test": secret})
    # Nothing to test on there: a share of the rest is.
    images = data.load_images("tfds:my_shapes", folder)
    assert (images.train_size, images.test_size) == (10, 2)


def test_labels_out_of_range(prepared):
    features, rows = shapes()
    folder = prepared(features, {"train": [*rows, {**rows[0], "label": -1}]})
    with pytest.raises(UserError, match="must be from 0 to 1. Received: from -1"):
        data.load_images("tfds:my_shapes", folder)


def tiny(dataset, **settings):
    defaults = {
        "name": "own",
        "model": "own_tiny",
        "stem": "cifar",
        "epochs": 2,
        "step1_epochs": 1,
        "batch_size": 8,
        "learning_rate": 2e-2,
        "schedule": "cosine",
    }
    return Recipe(dataset=str(dataset), **{**defaults, **settings})


@pytest.fixture
def own_tiny(monkeypatch):
    monkeypatch.setitem(FAMILIES, "own_tiny", ResNet((1,), width=4))


@pytest.mark.usefixtures("own_tiny")
def test_a_run_keeps_what_was_measured(photos, tmp_path, capsys):
    recipe, out = tiny(photos, size=16), tmp_path / "run"
    result = train(recipe, out, verbose=False)
    row = data.load_images(str(photos), settings=DataSettings(size=16)).row
    settings = data_settings(out)
    assert (settings.mean, settings.std) == (row.mean, row.std)
    assert settings.classes == ("dark", "light")
    assert row_of(str(photos), settings) == row
    # A resumed run goes by what is kept, whatever the folder holds now.
    write(photos / "dark" / "0.png", picture(np.random.default_rng(1), level=255))
    again = train(recipe, out, resume=True, verbose=False)
    assert again["weights_sha256"] == result["weights_sha256"]
    with pytest.raises(UserError, match="crop was 'resized', is 'none'"):
        train(recipe.replace(crop="none"), out, resume=True, verbose=False)

    # The command finds it beside the model.
    path = str(out / "model.keras")
    assert main(["evaluate", path, "--data", str(photos)]) == 0
    assert f"top-1 {result['top1']['step2']:.2f} %" in capsys.readouterr().out
    folder = publish_run(out, tmp_path / "zoo")
    card = read_card(folder / "card.json")
    assert card.dataset == "photos"
    assert card.classes == (("0", "dark"), ("1", "light"))
    assert (card.mean, card.std) == (row.mean, row.std)
    for file in folder.iterdir():
        assert str(tmp_path).encode() not in file.read_bytes()
    assert main(["evaluate", str(folder), "--data", str(photos)]) == 0
    assert "as its card says" in capsys.readouterr().out
    model = zoo.create_model("own_tiny", weights=folder)
    pixels = np.full((1, 16, 16, 3), 200, np.uint8)
    expected = (200 / 255 - np.array(row.mean)) / row.std
    for what in (model, card, row):
        shown = zoo.preprocess_input(pixels, what)
        np.testing.assert_allclose(shown[0, 0, 0], expected, rtol=1e-5)
    named = zoo.decode_predictions(model.predict(shown, verbose=0), 1, row)
    assert named[0][0][1] in ("dark", "light")
    assert evaluate(model, str(photos), verbose=False)["images"] == 4


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{}", None),
        ("no json", None),
        ('{"size": "large"}', None),
        ('{"name": "r", "dataset": "digits", "model": "m"}', DataSettings()),
    ],
)
def test_settings_beside_a_model(tmp_path, content, expected):
    assert data_settings(tmp_path) is None
    (tmp_path / "settings.json").write_text(content)
    assert data_settings(tmp_path) == expected


def test_damaged_settings_beside_a_model(tmp_path):
    text = '{"name": "r", "dataset": "digits", "model": "m", "mean": [0.5, "x", 1]}'
    (tmp_path / "settings.json").write_text(text)
    with pytest.raises(UserError, match="must hold the settings of a run. .*`entries"):
        data_settings(tmp_path)


def test_test_images_alone(photos, parts):
    whole = data.load_images(str(parts))
    alone = data.load_images(str(parts), test_only=True)
    np.testing.assert_array_equal(alone.test[0], whole.test[0])
    assert alone.train_size == 0
    assert alone.row == whole.row
    assert data.load_images(str(photos), test_only=True).test_size == 4
    assert data.load_images("digits", test_only=True).test_size == 360


@pytest.mark.usefixtures("own_tiny")
def test_a_run_learns_and_resumes_bit_for_bit(photos, tmp_path, monkeypatch):
    recipe = tiny(photos, size=16, epochs=3, batch_size=4)
    whole = train(recipe, tmp_path / "whole", verbose=False)
    losses = json.loads((tmp_path / "whole" / "history.json").read_text())["step2"]
    assert losses[-1]["loss"] < losses[0]["loss"]
    assert whole["top1"]["step2"] == 100

    class Killed(Exception):
        pass

    from larq_nobn.training.folder import RunFolder

    save = RunFolder.save_checkpoint

    def save_and_die(self, number, checkpoint):
        save(self, number, checkpoint)
        if number >= 8:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save_checkpoint", save_and_die)
        with pytest.raises(Killed):
            train(recipe, tmp_path / "killed", verbose=False)
    again = train(recipe, tmp_path / "killed", resume=True, verbose=False)
    assert again["weights_sha256"] == whole["weights_sha256"]


@pytest.mark.usefixtures("own_tiny")
def test_a_wrong_path_leaves_the_folder_free(photos, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(UserError, match="which is not there"):
        train(tiny(tmp_path / "nowhere"), out, verbose=False)
    with pytest.raises(UserError, match="`batch_size` must be from 1"):
        train(tiny(photos, batch_size=100), out, verbose=False)


@pytest.mark.usefixtures("own_tiny")
def test_other_classes_are_refused(photos, tmp_path):
    model = zoo.create_model(
        "own_tiny", stem="cifar", input_shape=(16, 16, 3), num_classes=2
    )
    model.data_settings = DataSettings(
        size=16, crop="none", mean=(0.5,) * 3, std=(0.2,) * 3, classes=("dark", "red")
    )
    with pytest.raises(UserError, match="others are light, red"):
        evaluate(model, str(photos), verbose=False)
    model.data_settings = None
    (photos / "light").rename(photos / "bright")
    found = evaluate(model, str(photos), verbose=False)
    assert found["images"] == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop": "zoom"}, "`crop` must be one of 'padded', 'resized', 'none'"),
        ({"storage": "tape"}, "`storage` must be one of 'memory', 'disk'"),
        ({"size": 0}, "`size` must be above 0"),
        ({"test_share": 1.0}, "`test_share` must be below 1"),
        ({"mean": (0.5,)}, "`mean` and `std` go together"),
        ({"mean": (0.5,) * 3, "std": (0.5, 0.0, 0.5)}, "`std` is above 0"),
        ({"mean": 0.5}, "`mean` must be of type tuple"),
        ({"mean": ("a",) * 3}, "`entries of mean` must be of type float"),
        ({"classes": (1, 2)}, "`entries of classes` must be of type str"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(UserError, match=message):
        tiny("tfds:x", model="reactnet18", **settings)


def test_settings_of_a_known_data_set():
    recipe = Recipe(name="r", dataset="cifar10", model="reactnet18", stem="cifar")
    assert recipe.row == DATASETS["cifar10"]
    large = recipe.replace(size=64, flip=False)
    assert large.network.input_shape == (64, 64, 3)
    assert (large.row.crop_padding, large.row.flip) == (8, False)
    assert recipe.described_by(recipe.row) == recipe
    json.dumps(dataclasses.asdict(large.replace(mean=(0.5,) * 3, std=(1.0,) * 3)))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cifar10", "cifar10"),
        ("tfds:mnist", "mnist"),
        ("tfds:imagenette/160px", "imagenette-160px"),
        ("/home/me/My Photos/", "my-photos"),
        ("./cifar10", "own-cifar10"),
        ("/data/shapes/1.0.0", "shapes"),
        ("/", "images"),
    ],
)
def test_names_on_cards(name, expected):
    assert plain_name(name) == expected


def test_class_names():
    names = ("n01440764", "n99999999")
    pairs = class_pairs(names)
    assert pairs == (("n01440764", "tench"), ("n99999999", "n99999999"))
    assert folder_names(pairs) == names
    assert folder_names(class_pairs("ab")) == ("a", "b")
