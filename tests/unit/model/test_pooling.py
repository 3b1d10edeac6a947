"""Adaptive pooling, frame repetition, and that doing things in the cheaper order changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pllava.core.errors import PllavaError
from pllava.model.pooling import pool, repeat_frames


@pytest.mark.parametrize(
    ("given", "wanted", "published", "even"),
    [
        (3, 4, [0, 0, 1, 1], [0, 0, 1, 2]),  # the published rule loses frame 2
        (2, 4, [0, 0, 0, 1], [0, 0, 1, 1]),
        (1, 4, [0, 0, 0, 0], [0, 0, 0, 0]),
        (4, 4, [0, 1, 2, 3], [0, 1, 2, 3]),
        (8, 16, [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 5], [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7]),
    ],
)
def test_short_videos_are_stretched(given: int, wanted: int, published: list[int], even: list[int]) -> None:
    frames = torch.arange(given)[None, :, None]
    assert repeat_frames(frames, wanted)[0, :, 0].tolist() == published
    assert repeat_frames(frames, wanted, "even")[0, :, 0].tolist() == even


def test_too_many_frames_are_refused_with_the_remedy() -> None:
    with pytest.raises(PllavaError, match=r"6 frames, the model takes 4.*num_frames=6"):
        repeat_frames(torch.zeros(1, 6, 1), 4)


def test_pooling_to_the_same_shape_changes_nothing() -> None:
    features = torch.randn(2, 4, 16, 8)
    assert pool(features, (4, 4), (4, 4, 4)).equal(features.flatten(1, 2))


@pytest.mark.parametrize("shape", [(4, 2, 2), (3, 3, 3), (1, 1, 1), (2, 3, 4)])
@torch.no_grad()
def test_pooling_before_linear_2_equals_pooling_after_it(tiny_model: Any, shape: tuple[int, int, int]) -> None:
    projector = tiny_model.model.multi_modal_projector
    config = type(tiny_model.config)(**{**tiny_model.config.to_dict(), "pooling_shape": shape})
    features = torch.randn(2, 4, 16, 64)
    plain = pool(projector.linear_2(projector.act(projector.linear_1(features))), (4, 4), shape)
    torch.testing.assert_close(projector(features, config), plain, atol=1e-5, rtol=0)


@torch.no_grad()
def test_without_pooling_every_patch_is_a_token(tiny_model: Any) -> None:
    config = type(tiny_model.config)(**{**tiny_model.config.to_dict(), "use_pooling": False})
    assert config.num_visual_tokens == 4 * 4 * 4
    assert tiny_model.model.multi_modal_projector(torch.randn(1, 4, 16, 64), config).shape == (1, 64, 64)


@torch.no_grad()
def test_the_tower_stops_at_the_layer_that_is_read(tiny_model: Any) -> None:
    tower, pixels = tiny_model.model.vision_tower, torch.randn(2, 3, 56, 56)
    ran: list[int] = []
    hooks = [layer.register_forward_hook(lambda *_, i=i: ran.append(i)) for i, layer in enumerate(tower.encoder.layers)]
    features = tiny_model.vision_features(pixels)
    for hook in hooks:
        hook.remove()
    assert ran == [0, 1, 2]  # of four
    plain = tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
    torch.testing.assert_close(features, plain, atol=1e-5, rtol=0)
