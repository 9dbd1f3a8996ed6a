import math

import pytest
import torch

from pipeline.images.metrics import class_iou, confusion_matrix, global_accuracy, miou


def test_by_hand():
    truth = torch.tensor([0, 0, 0, 1, 1, 255], dtype=torch.uint8)
    prediction = torch.tensor([0, 0, 1, 1, 0, 1])
    confusion = confusion_matrix(truth, prediction, 3)
    assert confusion.tolist() == [[2, 1, 0], [1, 1, 0], [0, 0, 0]]
    assert confusion.dtype == torch.float64
    # Class 0: 2 hits of 3 true and 3 predicted, 2 / 4. Class 1: 1 / 3. Class 2 appears nowhere and does not count.
    iou = class_iou(confusion).tolist()
    assert iou[:2] == [pytest.approx(2 / 4), pytest.approx(1 / 3)]
    assert math.isnan(iou[2])
    assert miou(confusion) == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert global_accuracy(confusion) == pytest.approx(3 / 5)


def test_a_class_that_is_only_predicted_counts_as_zero():
    confusion = confusion_matrix(torch.tensor([0, 0]), torch.tensor([0, 2]), 3)
    assert miou(confusion) == pytest.approx((1 / 2 + 0) / 2)


def test_adds_up_over_batches():
    truth, prediction = torch.randint(0, 4, (2, 6, 5, 5))
    whole = confusion_matrix(truth, prediction, 4)
    parts = [confusion_matrix(t, p, 4) for t, p in zip(truth.split(2), prediction.split(2), strict=True)]
    assert torch.equal(whole, torch.stack(parts).sum(0))


def test_of_nothing_labelled_there_are_no_metrics():
    confusion = confusion_matrix(torch.full((4,), 255), torch.zeros(4, dtype=torch.int64), 2)
    assert math.isnan(miou(confusion))
    assert math.isnan(global_accuracy(confusion))
