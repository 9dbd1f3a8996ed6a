import dataclasses
import itertools
import json

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.nn import functional as F

from pipeline.config import from_dict, to_dict
from pipeline.errors import RequestError
from pipeline.images.inputs import NO_CLASS
from pipeline.images.labels import described_classes
from pipeline.images.outputs import decode_mask
from pipeline.images.reconstruction import ImageReconstruction
from pipeline.images.task import ImageSegmentation
from pipeline.images.upsampling import class_strips, in_bands
from pipeline.models.autoencoders.conv_vae import ConvVAE, ConvVAEConfig
from pipeline.models.segmenters.interface import Segmenter
from pipeline.models.segmenters.unet import UNet, UNetConfig
from pipeline.noise import Noise
from pipeline.rows import INPUT_SCHEMA
from testing.broken_images import broken, encoded, picture

CPU = torch.device("cpu")
SIZES = [(1, 1), (1, 80), (90, 1), (17, 33), (24, 32), (48, 64), (17, 33), (50, 20)]
CLASSES = {"classes": ["sky", "road", "car"], "palette": [[1, 2, 3], [4, 5, 6], [7, 8, 9]], "ignore_index": 11}
STAGES = {"widths": (8, 16), "blocks": (0, 1)}


def segmentation(**settings):
    return ImageSegmentation(**described_classes(CLASSES), height_px=24, width_px=32, **settings)


def reconstruction():
    return ImageReconstruction(height_px=24, width_px=32)


def model_for(task):
    torch.manual_seed(0)
    if isinstance(task, ImageSegmentation):
        return UNet(UNetConfig(classes=len(task.classes), **STAGES)).eval()
    return ConvVAE(ConvVAEConfig(**STAGES, decoder_blocks=(0, 0), latent_channels=2)).eval()


def rows(data, labels=None):
    columns = {"data": data, "format": ["object"] * len(data), "label": labels or [None] * len(data)}
    return pa.table(columns, INPUT_SCHEMA)


def photographs():
    return rows([encoded(picture(*size), "PNG") for size in SIZES])


def labelled(count=4):
    labels = []
    for index in range(count):
        label = np.zeros((24, 32), np.uint8)
        label[12:], label[:, 16 + index :], label[0, 0] = 1, 2, 11
        labels.append(encoded(label, "PNG"))
    return rows([encoded(picture(), "PNG")] * count, labels)


def run(task, model, table):
    return task.encode(task.predict(model, task.prepare(table).drop(["error"]), CPU))


@pytest.mark.parametrize("task", [segmentation(), reconstruction()], ids=lambda task: task.kind)
class TestEveryTask:
    def test_broken_rows_stay_as_errors_beside_good_ones(self, task):
        files = broken()
        prepared = task.prepare(
            rows([picture_bytes for picture_bytes, _ in files.values()] + [encoded(picture(), "PNG")])
        )
        errors = prepared["error"].to_pylist()
        assert [error["code"] for error in errors[:-1]] == [code for _, code in files.values()]
        assert errors[-1] is None
        assert {error["stage"] for error in errors[:-1]} == {"prepare"}
        assert prepared["image"].null_count == len(files)

    def test_output_has_the_schema_and_the_rows(self, task):
        table = run(task, model_for(task), photographs())
        assert table.schema.equals(task.schema)
        assert list(zip(table["height"].to_pylist(), table["width"].to_pylist(), strict=True)) == SIZES

    def test_output_does_not_depend_on_the_batch(self, task):
        model, table = model_for(task), photographs()
        whole = run(task, model, table).to_pylist()
        alone = [run(task, model, table.slice(index, 1)).to_pylist()[0] for index in range(len(SIZES))]
        backwards = run(task, model, table.take(list(range(len(SIZES)))[::-1])).to_pylist()[::-1]
        for one, other in itertools.chain(zip(whole, alone, strict=True), zip(whole, backwards, strict=True)):
            for name in one:
                if isinstance(one[name], float) or name == "embedding":
                    assert one[name] == pytest.approx(other[name], abs=1e-4), name
                elif name == "mask":
                    assert np.mean(decode_mask(one[name]["bytes"]) != decode_mask(other[name]["bytes"])) <= 1e-4
                elif name != "class_pixels":
                    assert one[name] == other[name], name

    def test_settings_survive_json(self, task):
        assert from_dict(type(task), json.loads(json.dumps(to_dict(task)))) == task

    def test_a_loss_adds_up_over_workers(self, task):
        model, samples = model_for(task), task.prepare_samples(labelled()).drop(["error"])

        def loss(places):
            noise = Noise(1, 2, places)
            batch = task.augment(task.collate(samples.take(places)), noise)
            found = task.loss(model, batch, noise)
            return torch.stack([found.total.detach().double(), found.units.detach().double()])

        torch.testing.assert_close(loss([0, 1, 2, 3]), loss([0]) + loss([1, 2, 3]), rtol=1e-4, atol=1e-3)

    def test_scores_add_up_and_have_the_metric(self, task):
        model, samples = model_for(task), task.prepare_samples(labelled()).drop(["error"])

        def score(places):
            with torch.inference_mode():
                return task.score(model, task.collate(samples.take(places)), Noise(1, -1, places))

        whole, parts = score([0, 1, 2, 3]), [score([0, 1]), score([2, 3])]
        for name, value in whole.items():
            assert value.dtype == torch.float64, name
            torch.testing.assert_close(value, parts[0][name] + parts[1][name], rtol=1e-5, atol=1e-5)
        assert task.metric[0] in task.summarize(whole)


def test_masks_have_the_size_and_the_colours_of_the_input():
    task = segmentation()
    for row, size in zip(run(task, model_for(task), photographs()).to_pylist(), SIZES, strict=True):
        mask = decode_mask(row["mask"]["bytes"])
        assert mask.shape == size
        assert row["class_pixels"] == np.bincount(mask.ravel(), minlength=3).tolist()
        assert 1 / 3 <= row["confidence"] <= 1
        assert 0 <= row["uncertainty"] <= np.log(3) + 1e-6
        assert row["novelty"] is row["novelty_raw"] is row["embedding"] is None
    assert task.huggingface_features == {"mask": {"_type": "Image"}}


@pytest.mark.parametrize("size", [(1, 1), (1, 80), (90, 1), (17, 33), (48, 64)])
def test_interpolation_is_torch_s(size, monkeypatch):
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 12, 16)
    wanted = F.interpolate(logits, size=size, mode="bilinear", align_corners=False).argmax(1).numpy()
    for pixels in (10**9, 1, 5 * size[1]):  # all at once; a row at a time; bands that do not divide the height
        monkeypatch.setattr("pipeline.images.upsampling._BAND_PX", pixels)
        found = [np.concatenate(list(class_strips(in_bands(one, *size), (12, 16), size))) for one in logits]
        assert all(mask.dtype == np.uint8 for mask in found)
        assert np.mean(np.stack(found) != wanted) < 1e-3


class _Halves(Segmenter):
    """Class 1 where an image is bright, else class 0. It wants to see a dark left and a bright right half, and no
    padding."""

    def __init__(self):
        super().__init__()
        self.config = UNetConfig(classes=3)

    def forward(self, image):
        assert (image[:, :, :, 17:] > 0.9).all(), "the whole input is image"
        assert (image[:, :, :, :15] < 0.1).all()
        bright = image.mean(1, keepdim=True)
        return torch.cat((1 - bright, bright, torch.zeros_like(bright)), 1)


@pytest.mark.parametrize("size", [(48, 20), (10, 90), (24, 32)])
def test_a_stretched_image_fills_the_input_and_its_mask_is_as_large_as_it(size):
    pixels = np.zeros((*size, 3), np.uint8)
    pixels[:, size[1] // 2 :] = 255
    label = (pixels[..., 0] > 0).astype(np.uint8)
    task = segmentation(resize="stretch")
    (row,) = run(task, _Halves(), rows([encoded(pixels, "PNG")])).to_pylist()
    mask = decode_mask(row["mask"]["bytes"])
    assert mask.shape == size
    assert (mask != label)[:, [0, size[1] // 2 - 2, size[1] // 2 + 1, -1]].sum() == 0
    (sample,) = task.prepare_samples(rows([encoded(pixels, "PNG")], [encoded(label, "PNG")])).to_pylist()
    boxed = np.frombuffer(sample["label"], np.uint8).reshape(24, 32)
    assert (boxed[:, :16] == 0).all()
    assert (boxed[:, 16:] == 1).all()


def test_many_classes_make_16_bit_masks():
    count = 300
    names = tuple(f"class {index}" for index in range(count))
    task = ImageSegmentation(classes=names, palette=((0, 0, 0),) * count, height_px=8, width_px=8)

    class Last(torch.nn.Module):
        def forward(self, image):
            return F.one_hot(torch.full(image[:, 0].shape, count - 1), count).permute(0, 3, 1, 2).float()

    (row,) = run(task, Last(), rows([encoded(picture(5, 6), "PNG")])).to_pylist()
    mask = decode_mask(row["mask"]["bytes"])
    assert mask.dtype == np.uint16
    assert (mask == 299).all()
    assert row["class_pixels"][299] == 30
    with pytest.raises(RequestError, match="labels of 8 bits name 255 classes at most"):
        task.prepare_samples(labelled())


def test_training_prepares_as_the_stream_does():
    task = segmentation()
    samples, prepared = task.prepare_samples(labelled()), task.prepare(labelled())
    assert samples.drop(["label"]).equals(prepared)
    label = task.collate(samples.drop(["error"]))["label"]
    assert label.shape == (4, 24, 32)
    assert label[0, 0, 0] == NO_CLASS, "what the folder ignores has no class"
    assert label[0, 20, 3] == 1


def test_bad_labels_fail_their_row_only():
    good = encoded(np.zeros((24, 32), np.uint8), "PNG")
    wrong_size, unknown = encoded(np.zeros((24, 31), np.uint8), "PNG"), encoded(np.full((24, 32), 7, np.uint8), "PNG")
    samples = segmentation().prepare_samples(rows([encoded(picture(), "PNG")] * 4, [good, wrong_size, unknown, None]))
    errors = samples["error"].to_pylist()
    assert errors[0] is None
    assert [error["code"] for error in errors[1:]] == ["bad_label"] * 3
    assert errors[2]["message"] == "the label has the value 7, which is no class: ids are 0 to 2, or 11 for no class"


def test_loss_by_hand():
    task = dataclasses.replace(segmentation(), class_weights=(1.0, 2.0, 4.0))

    class Even(Segmenter):
        def forward(self, image):
            return torch.zeros(len(image), 3, *image.shape[2:])

    class Penalised(Even):
        def training_outputs(self, image, draw):
            return self(image), {"a": torch.full((len(image),), 0.5), "b": torch.arange(1.0, len(image) + 1)}

    batch = {"image": torch.zeros(1, 3, 1, 4), "label": torch.tensor([[[0, 1, 2, NO_CLASS]]], dtype=torch.uint8)}
    loss = task.loss(Even(), batch, Noise(0, 0, [0]))
    assert loss.units.item() == 7.0
    assert loss.total.item() == pytest.approx(7 * np.log(3))
    plain = segmentation().loss(Even(), batch, Noise(0, 0, [0]))
    assert plain.units.item() == 3.0
    assert plain.total.item() == pytest.approx(3 * np.log(3))
    assert plain.logs == {}
    twice = {
        "image": batch["image"].repeat(2, 1, 1, 1),
        "label": torch.cat([batch["label"], batch["label"][..., [0, 3, 3, 3]]]),
    }
    penalised = task.loss(Penalised(), twice, Noise(0, 0, [0, 1]))
    assert penalised.units.item() == 8.0
    assert {name: value.item() for name, value in penalised.logs.items()} == {"a": 0.5 * 7 + 0.5, "b": 7 + 2}
    assert penalised.total.item() == pytest.approx(8 * np.log(3) + 4 + 9), "for each image, its own units"


def test_padding_is_not_explained():
    task = reconstruction()
    samples = task.prepare_samples(rows([encoded(picture(12, 32), "PNG")])).drop(["error"])
    batch = task.collate(samples)
    assert batch["valid"].sum() == 12 * 32
    model, noise = model_for(task), Noise(0, 0, [0])
    with torch.inference_mode():
        statistics = task.score(model, batch, noise)
    assert statistics["values"].item() == 3 * 12 * 32


def test_gray_models_see_the_luma():
    task = dataclasses.replace(reconstruction(), channels=1)
    colours = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255], [77, 77, 77]], dtype=torch.uint8)[..., None, None]
    assert task.seen(colours).flatten().tolist() == pytest.approx([0.299, 0.587, 0.114, 77 / 255], abs=1e-6)
    torch.manual_seed(0)
    model = ConvVAE(ConvVAEConfig(channels=1, **STAGES, decoder_blocks=(0, 0), latent_channels=2)).eval()
    assert run(task, model, photographs()).schema.equals(task.schema)
    samples = task.prepare_samples(labelled()).drop(["error"])
    noise = Noise(1, 2, range(4))
    assert task.loss(model, task.augment(task.collate(samples), noise), noise).total.isfinite()
    assert task.score(model, task.collate(samples), noise)["values"].item() == 4 * 24 * 32


def binary():
    torch.manual_seed(0)
    config = ConvVAEConfig(channels=1, **STAGES, decoder_blocks=(0, 0), likelihood="bernoulli")
    return dataclasses.replace(reconstruction(), channels=1, binarise=True), ConvVAE(config).eval()


def test_binary_values_are_drawn_and_never_cut_off_at_a_threshold():
    task, model = binary()
    seen = []
    model.infer, infer = lambda image, noise: seen.append(image) or infer(image, noise), model.infer
    batch = {"image": torch.full((2, 3, 24, 32), 51, dtype=torch.uint8), "valid": torch.ones(2, 1, 24, 32)}
    for step in (0, 1, 1):
        task.loss(model, batch, Noise(0, step, [5, 6]))
    task.score(model, batch, Noise(0, -1, [5, 6]))
    assert all(set(image.unique().tolist()) == {0, 1} for image in seen)
    assert all(image.mean().item() == pytest.approx(0.2, abs=0.05) for image in seen), "the pixel is the chance of 1"
    assert not torch.equal(seen[0], seen[1]), "anew at each step"
    assert torch.equal(seen[1], seen[2]), "and the same at the same step"
    assert not torch.equal(seen[0][0], seen[0][1]), "and for each image"


def test_bits_of_binary_values_are_those_of_a_probability():
    task, model = binary()

    with torch.no_grad():
        for layer in (model.posterior, model.decoder.head):
            layer.weight.zero_(), layer.bias.zero_()
    batch = {"image": torch.full((2, 3, 24, 32), 51, dtype=torch.uint8), "valid": torch.ones(2, 1, 24, 32)}
    with torch.inference_mode():
        found = task.summarize(task.score(model, batch, Noise(0, -1, [5, 6])))
    assert found["bits_per_dimension"] == pytest.approx(1.0), (
        "a fair coin for each value, and nothing said by the latents"
    )
    assert found["nll_bound"] == pytest.approx(24 * 32 * np.log(2))


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        ({"channels": 1}, {}, "ConvVAEConfig.channels must be the 1 of ImageReconstruction.channels, got 3"),
        ({"binarise": True}, {}, "likelihood must be 'bernoulli' if ImageReconstruction.binarise, got 'gaussian'"),
        ({}, {"code": "top_k"}, "ObjectiveConfig.terms has 'kl', which needs a code of 'gaussian'"),
    ],
)
def test_a_model_that_does_not_fit_the_task_is_refused(task, settings, message):
    with pytest.raises(RequestError, match=message):
        dataclasses.replace(reconstruction(), **task).check_model(ConvVAEConfig(**settings))


def test_settings_are_checked():
    clash = described_classes(CLASSES) | {"ignore_index": 1}
    with pytest.raises(RequestError, match=r"ImageSegmentation.ignore_index must not be the id of a class, got 1"):
        ImageSegmentation(**clash)
    with pytest.raises(RequestError, match=r"ImageSegmentation.class_weights must have a value for each class"):
        segmentation(class_weights=(1.0,))
    with pytest.raises(RequestError, match=r"classes.json must be an object with classes and palette"):
        described_classes({"classes": ["a", "b"]})
