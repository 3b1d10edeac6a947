"""Videos, stills and text in one batch: every sample gets what it would get alone (the published model mixes them or fails)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pllava.core.errors import PllavaError

N, IMAGE, PAD = 16, 600, 601


def prompt(length: int, media: int = 1, seed: int = 0) -> Tensor:
    """[1, S] ids: BOS, `media` times N placeholders, `length` words."""
    words = torch.randint(3, 590, (length,), generator=torch.Generator().manual_seed(seed))
    return torch.cat([torch.tensor([1]), torch.full((N * media,), IMAGE), words])[None]


def pad(rows: list[Tensor], side: str) -> tuple[Tensor, Tensor]:
    longest = max(row.shape[1] for row in rows)
    filler = [torch.full((1, longest - row.shape[1]), PAD) for row in rows]
    ids = torch.cat([torch.cat([f, r] if side == "left" else [r, f], dim=1) for f, r in zip(filler, rows, strict=True)])
    mask = torch.cat(
        [torch.cat([f * 0, r * 0 + 1] if side == "left" else [r * 0 + 1, f * 0], dim=1) for f, r in zip(filler, rows, strict=True)]
    )
    return ids, mask


@pytest.fixture(scope="module")
def video() -> Tensor:
    return torch.randn(2, 4, 3, 56, 56, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_a_mixed_batch_equals_its_samples_alone(tiny_model: Any, video: Tensor, image: Tensor, side: str) -> None:
    rows = [prompt(9, seed=1), prompt(4, seed=2), prompt(30, media=0, seed=3), prompt(5, seed=4)]
    alone = [
        tiny_model(input_ids=rows[0], pixel_values=image[:1]).logits,
        tiny_model(input_ids=rows[1], pixel_values_videos=video[:1]).logits,
        tiny_model(input_ids=rows[2]).logits,
        tiny_model(input_ids=rows[3], pixel_values=image[1:]).logits,
    ]
    ids, mask = pad(rows, side)
    logits = tiny_model(
        input_ids=ids,
        attention_mask=mask,
        pixel_values_videos=video[:1],
        pixel_values=image,
        media_is_image=torch.tensor([True, False, True]),
    ).logits
    for i, single in enumerate(alone):
        torch.testing.assert_close(logits[i][mask[i].bool()], single[0], atol=2e-5, rtol=0)


@torch.no_grad()
def test_a_still_is_a_video_of_equal_frames_encoded_once(tiny_model: Any, image: Tensor) -> None:
    encoded: list[int] = []
    hook = tiny_model.model.vision_tower.embeddings.register_forward_hook(lambda _, args, __: encoded.append(len(args[0])))
    repeated = tiny_model.encode_video(image[:, None].expand(-1, 4, -1, -1, -1))
    still = tiny_model.encode_video(image[:, None])
    hook.remove()
    torch.testing.assert_close(still, repeated, atol=1e-5, rtol=0)
    assert encoded == [8, 2]


@torch.no_grad()
def test_a_short_video_uses_the_published_repetition(tiny_model: Any, video: Tensor) -> None:
    torch.testing.assert_close(tiny_model.encode_video(video[:, :3]), tiny_model.encode_video(video[:, [0, 0, 1, 1]]), atol=1e-5, rtol=0)


@torch.no_grad()
def test_stored_features_give_the_same_numbers_as_pixels(tiny_model: Any, video: Tensor) -> None:
    ids, mask = pad([prompt(9, seed=1), prompt(4, seed=2)], "left")
    features = tiny_model.vision_features(video.flatten(0, 1)).unflatten(0, (2, 4))
    from_pixels = tiny_model(input_ids=ids, attention_mask=mask, pixel_values_videos=video).logits
    assert tiny_model(input_ids=ids, attention_mask=mask, vision_features=features).logits.equal(from_pixels)
    uneven = tiny_model(input_ids=ids, attention_mask=mask, vision_features=[features[0], features[1, :1]]).logits
    torch.testing.assert_close(uneven[0], from_pixels[0], atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_pad_embedding_of_zeros_changes_nothing_about_the_slots(load_tiny: Any, video: Tensor) -> None:
    model = load_tiny("tiny56_base", fresh=True)
    model.get_input_embeddings().weight[PAD] = 0
    rows = [prompt(9, seed=1), prompt(4, seed=2)]
    ids, mask = pad(rows, "left")
    logits = model(input_ids=ids, attention_mask=mask, pixel_values_videos=video).logits
    torch.testing.assert_close(
        logits[1][mask[1].bool()], model(input_ids=rows[1], pixel_values_videos=video[1:]).logits[0], atol=2e-5, rtol=0
    )


def test_a_prompt_that_was_not_expanded_is_refused(tiny_model: Any, video: Tensor) -> None:
    with pytest.raises(PllavaError, match=r"hold 1 placeholders.*16 visual tokens.*PllavaProcessor"):
        tiny_model(input_ids=torch.tensor([[1, IMAGE, 5]]), pixel_values_videos=video[:1])


@torch.no_grad()
def test_the_loss_reads_supervised_positions_whatever_logits_are_kept(tiny_model: Any, video: Tensor) -> None:
    ids, mask = pad([prompt(9, seed=1), prompt(4, seed=2)], "right")
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, : N + 3] = -100
    call = {"input_ids": ids, "attention_mask": mask, "pixel_values_videos": video, "labels": labels}
    full, last = tiny_model(**call), tiny_model(**call, logits_to_keep=1)
    assert last.logits.shape[1] == 1
    torch.testing.assert_close(last.logits, full.logits[:, -1:], atol=1e-5, rtol=0)
    plain = torch.nn.functional.cross_entropy(full.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
    torch.testing.assert_close(last.loss, plain, atol=1e-5, rtol=0)
    assert last.loss.equal(full.loss)


def test_generate_encodes_once_and_beams_share_it(tiny_model: Any, video: Tensor) -> None:
    two_each = torch.cat([prompt(4, media=2, seed=1), prompt(4, media=2, seed=2)])
    videos = torch.cat([video, video.flip(0)])
    encoded: list[int] = []
    hook = tiny_model.model.vision_tower.embeddings.register_forward_hook(lambda _, args, __: encoded.append(len(args[0])))
    call = {"max_new_tokens": 4, "do_sample": False, "attention_mask": torch.ones_like(two_each), "pixel_values_videos": videos}
    greedy = tiny_model.generate(input_ids=two_each, **call)
    beams = tiny_model.generate(input_ids=two_each, num_beams=3, **call)
    hook.remove()
    assert encoded == [16, 16]
    assert greedy.shape == beams.shape
    alone = tiny_model.generate(
        input_ids=two_each[1:],
        num_beams=3,
        **{**call, "attention_mask": torch.ones_like(two_each[1:])} | {"pixel_values_videos": videos[2:]},
    )
    assert beams[1].equal(alone[0])


def test_embeddings_can_be_given_for_ids(tiny_model: Any, video: Tensor) -> None:
    """As with every model of transformers: `generate(inputs_embeds=...)` gives the ids that the prompt itself gives."""
    ids = prompt(5)
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 6, "do_sample": False}
    whole = tiny_model.generate(ids, pixel_values_videos=video[:1], **options)
    seen = tiny_model.model.encode_media(pixel_values_videos=video[:1])
    given = tiny_model.generate(inputs_embeds=tiny_model.model.embed(ids, seen), **options)
    assert torch.equal(given, whole[:, ids.shape[1] :])
