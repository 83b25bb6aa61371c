import numpy as np
import pytest
import tensorflow as tf

from larq_nobn import UserError, zoo
from larq_nobn.datasets import DATASETS, Dataset, class_names, usual_stem
from larq_nobn.training import Recipe, data
from larq_nobn.training.streamed import broken_pictures_named, open_streamed

SEED = tf.constant([3, 5], tf.int64)


@pytest.fixture(scope="module")
def digits():
    return data.load_images("digits")


def in_memory(images):
    """CIFAR-like images of our own."""
    labels = np.arange(len(images), dtype=np.int64) % 10
    return data.Images("cifar10", (images, labels), (images, labels))


@pytest.fixture
def random_images():
    return np.random.default_rng(0).integers(0, 256, (64, 32, 32, 3)).astype(np.uint8)


def test_digits_are_split_by_class(digits):
    assert digits.train[0].shape == (1437, 8, 8, 1)
    assert digits.test[0].shape == (360, 8, 8, 1)
    assert digits.train[0].dtype == np.uint8
    assert digits.train[0].max() == 255
    counts = np.bincount(digits.test[1])
    assert counts.min() >= 34
    assert counts.max() <= 38


def test_batches_depend_on_seed_and_epoch_alone(digits):
    def first(seed, epoch):
        images, labels = next(iter(digits.train_batches(32, seed, epoch)))
        return images.numpy(), labels.numpy()

    once, again = first(0, 3), first(0, 3)
    np.testing.assert_array_equal(once[0], again[0])
    np.testing.assert_array_equal(once[1], again[1])
    assert (first(0, 4)[0] != once[0]).any()
    assert (first(1, 3)[0] != once[0]).any()


@pytest.mark.parametrize("mixup", [0.0, 0.2])
def test_an_epoch_goes_on_in_its_middle(digits, mixup):
    whole = list(digits.train_batches(500, 0, 3, mixup=mixup))
    rest = list(digits.train_batches(500, 0, 3, mixup=mixup, start=1))
    assert len(rest) == len(whole) - 1
    for images, expected in zip(rest[0], whole[1], strict=True):
        np.testing.assert_array_equal(images, expected)


def test_an_epoch_sees_every_image_once(random_images):
    # A label of its own for each image, by its mean.
    images = in_memory(random_images)
    counts = sum(
        labels.numpy().sum(axis=0) for _, labels in images.train_batches(16, 0, 0)
    )
    np.testing.assert_array_equal(counts, np.bincount(images.train[1], minlength=10))


@pytest.mark.parametrize("padding", ["zero", "reflect"])
def test_augmentation_crops_the_padded_image(random_images, padding):
    source = DATASETS["cifar10"]
    augmented = data.augment(tf.constant(random_images), SEED, source, padding).numpy()
    mode = {"zero": "constant", "reflect": "reflect"}[padding]
    padded = np.pad(random_images, [(0, 0), (4, 4), (4, 4), (0, 0)], mode)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (32, 32), (1, 2))
    windows = windows.transpose(0, 1, 2, 4, 5, 3)
    offsets, mirrored = set(), 0
    for image, crops in zip(augmented, windows, strict=True):
        found = [
            np.argwhere((crops == x).all((2, 3, 4))) for x in (image, image[:, ::-1])
        ]
        assert len(found[0]) + len(found[1]) == 1
        mirrored += len(found[1])
        offsets.add(tuple(np.concatenate(found)[0]))
    assert len(offsets) > 30
    assert 16 < mirrored < 48


def test_digits_are_not_mirrored(digits):
    left = np.zeros((200, 8, 8, 1), np.uint8)
    left[:, :, 1] = 255
    augmented = data.augment(tf.constant(left), SEED, digits.row).numpy()
    assert augmented[:, :, 3:].max() == 0


def test_normalization_is_preprocess_input(random_images):
    np.testing.assert_allclose(
        data.normalize(tf.constant(random_images), "cifar10"),
        zoo.preprocess_input(random_images, "cifar10"),
        atol=1e-5,
    )


def test_test_batches_keep_the_order(random_images):
    images = in_memory(random_images)
    batches = list(images.test_batches(24))
    assert [len(x) for x, _ in batches] == [24, 24, 16]
    labels = np.concatenate([y for _, y in batches]).argmax(axis=1)
    np.testing.assert_array_equal(labels, images.test[1])


@pytest.mark.parametrize(("mixup", "cutmix"), [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0)])
def test_mix_keeps_labels_in_proportion(mixup, cutmix):
    # Image i is constant i, its partner constant 7 - i: the mean tells the share.
    images = tf.reshape(tf.range(8.0), [8, 1, 1, 1]) * tf.ones([1, 16, 16, 3])
    labels = tf.one_hot(tf.range(8), 8)
    kinds = set()
    for seed in range(20):
        mixed, soft = data.mix(
            images, labels, tf.constant([seed, 0], tf.int64), mixup, cutmix
        )
        means = tf.reduce_mean(mixed, [1, 2, 3])
        expected = tf.linalg.matvec(soft, tf.range(8.0))
        np.testing.assert_allclose(means, expected, atol=1e-4)
        np.testing.assert_allclose(tf.reduce_sum(soft, 1), 1, atol=1e-6)
        distinct = len(np.unique(np.round(mixed[0], 4)))
        kinds.add("blend" if distinct == 1 and means[0] > 1e-3 else "box")
    assert ("blend" in kinds) == bool(mixup)
    assert ("box" in kinds) == bool(cutmix)


def test_mix_off_changes_nothing():
    images, labels = tf.ones([2, 4, 4, 1]), tf.eye(2)
    assert data.mix(images, labels, SEED, 0.0, 0.0) == (images, labels)


def test_too_large_a_batch(digits):
    with pytest.raises(
        UserError, match="from 1 to the number of training images, 1437"
    ):
        digits.train_batches(2000, 0, 0)


def test_wrong_limit():
    with pytest.raises(UserError, match="`limit` must be a positive integer"):
        data.load_images("digits", limit=0)


def test_missing_folder(tmp_path):
    with pytest.raises(UserError, match="which is no folder"):
        data.load_images("cifar10", str(tmp_path / "nowhere"))


def test_damaged_data(tmp_path):
    folder = tmp_path / "cifar10" / "3.0.2"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text("{not json")
    with pytest.raises(UserError, match="must be readable through tensorflow-datasets"):
        data.load_images("cifar10", str(tmp_path))


@pytest.fixture
def imagenet_folder(tmp_path):
    """A thousand classes, an image in each of the first three."""
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for i in range(1000):
            (tmp_path / part / f"n{i:08d}").mkdir(parents=True)
        for i in range(3):
            image = rng.integers(0, 256, (300 + 20 * i, 260, 3), dtype=np.uint8)
            jpeg = tf.io.encode_jpeg(image, quality=95).numpy()
            (tmp_path / part / f"n{i:08d}" / "a.JPEG").write_bytes(jpeg)
    return tmp_path


@pytest.mark.slow
def test_imagenet_from_class_folders(imagenet_folder):
    images = open_streamed("imagenet", str(imagenet_folder))
    assert images.train_size == 3
    batch, labels = next(iter(images.train_batches(3, 0, 0)))
    assert batch.shape == (3, 224, 224, 3)
    assert sorted(labels.numpy().argmax(axis=1)) == [0, 1, 2]
    again, _ = next(iter(images.train_batches(3, 0, 0)))
    np.testing.assert_array_equal(batch, again)
    # The middle of an epoch, mixed too.
    for mixup in (0.0, 0.2):
        *_, last = images.train_batches(1, 0, 0, mixup=mixup)
        rest, _ = next(iter(images.train_batches(1, 0, 0, mixup=mixup, start=2)))
        np.testing.assert_array_equal(rest, last[0])
    other, _ = next(iter(images.train_batches(3, 0, 1)))
    assert (other.numpy() != batch.numpy()).any()
    batch, labels = next(iter(images.test_batches(8)))
    assert batch.shape == (3, 224, 224, 3)
    np.testing.assert_array_equal(labels.numpy().argmax(axis=1), [0, 1, 2])


def test_imagenet_needs_all_classes(imagenet_folder):
    (imagenet_folder / "train" / "n00000999").rmdir()
    with pytest.raises(UserError, match="1000 class folders. Received: .* with 999"):
        open_streamed("imagenet", str(imagenet_folder))


def test_imagenet_needs_a_validation_part(imagenet_folder):
    for path in (imagenet_folder / "val").glob("*/*"):
        path.unlink()
    with pytest.raises(UserError, match="whose val has no images"):
        open_streamed("imagenet", str(imagenet_folder))


def test_a_row_is_all_that_another_data_set_needs(imagenet_folder, monkeypatch):
    row = Dataset(
        input_shape=(64, 64, 3),
        num_classes=1000,
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.2, 0.25),
        streamed=True,
    )
    monkeypatch.setitem(DATASETS, "mine", row)
    recipe = Recipe(name="mine", dataset="mine", model="reactnet18", stem="cifar")
    assert recipe.network.input_shape == (64, 64, 3)
    images = data.load_images(recipe.dataset, str(imagenet_folder))
    batch, labels = next(iter(images.train_batches(3, 0, 0)))
    assert batch.shape == (3, 64, 64, 3)
    assert labels.shape == (3, 1000)
    # The shorter side becomes 64 / 224 * 256 = 73 pixels before the crop.
    path = next((imagenet_folder / "val" / "n00000000").iterdir())
    whole = tf.image.decode_jpeg(path.read_bytes(), channels=3)
    scaled = tf.image.resize(whole, [round(300 * 73 / 260), 73], antialias=True)
    shown = tf.image.resize_with_crop_or_pad(scaled, 64, 64).numpy()
    batch, _ = next(iter(images.test_batches(1)))
    np.testing.assert_allclose(
        batch[0], (shown / 255 - row.mean) / row.std, atol=1e-4, rtol=1e-5
    )
    assert class_names("mine")[:2] == (("0", "0"), ("1", "1"))
    assert usual_stem("mine") == usual_stem("unknown") == "cifar"


@pytest.mark.parametrize("content", [b"", b"text", b"half", b"\x89PNG\r\n\x1a\n"])
def test_a_broken_picture_is_named(imagenet_folder, content, capsys):
    path = sorted((imagenet_folder / "val").glob("*/*"))[2]
    if content == b"half":
        content = path.read_bytes()[:-20]
    path.write_bytes(content)
    images = open_streamed("imagenet", str(imagenet_folder))
    message = rf"must be a readable JPEG. Received: {path}: .* Fix: replace it"
    with pytest.raises(UserError, match=message), broken_pictures_named(images):
        list(images.test_batches(2))
