"""Byte-level BPE over the wording of this project: `python tokenizer.py` writes tokenizer/ .

Role markers are one token and no space is put before a text, so tokenising a conversation whole or by segments gives the same ids.
"""

from __future__ import annotations

import random
from pathlib import Path

from albums import change_conversation, random_changes
from stills import CAPTION_REQUEST, album_questions, conversation, random_album, random_still, still_caption, still_questions, story
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = ["<unk>", "<s>", "</s>", "<pad>", "<image>"]
PIECES = r"USER:|ASSISTANT:|(?:Question|Answer|Options):| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]|\s"
MORE_WORDS = (
    "Describe the video in detail. What happens in the video? a an the and or but is are was were do does did who why which "
    "person man woman dog cat hand table left right up down before after then while video picture image frame clip scene "
    "I you it this that not cannot see shows show there here only best option give choose answer question in on at of to with from"
)


def corpus(count: int = 20000) -> list[str]:
    rng = random.Random(0)
    lines = [MORE_WORDS] * 20
    for _ in range(count // 3):
        still, album, changing = random_still(rng), random_album(rng, rng.randint(2, 8)), random_changes(rng)
        told, asked = story(rng)
        lines += [CAPTION_REQUEST, still_caption(still), told]
        for turns in (still_questions(still, rng), album_questions(album, rng), asked):
            lines += [text for turn in conversation(turns, rng) for text in turn]
        lines += [text for turn in change_conversation(changing, rng, 8) for text in turn]
    return lines


def build() -> PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=False))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PIECES), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=768, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    core.train_from_iterator(["USER:ASSISTANT:Question:Answer:Options:"] * 20000 + corpus(), trainer)
    from tokenizers.processors import TemplateProcessing

    core.post_processor = TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        extra_special_tokens={"image_token": "<image>"},
        model_max_length=2048,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


if __name__ == "__main__":
    tokenizer = build()
    tokenizer.save_pretrained(Path(__file__).parent / "tokenizer")
    print(f"{len(tokenizer)} tokens")
