"""The corpora of the paper: number of rows, and source of annotations and media. `pllava data list`, `pllava data show caption_textvr`.

Annotations are files of the Hugging Face data set OpenGVLab/VideoChat2-IT. `rows` counts the rows of the published annotation files
(training guide of the data set byminji/VideoChat2-IT-clean, column Total). Fewer rows are usable, because some videos are no longer online.
Media come from the sites of their publishers, under their terms. The links are from the data guides of VideoChat2 and PLLaVA.

The paper counts 783k samples: 27k conversation, 80k classification, 450k caption, 117k reasoning, 109k QA. The files agree for conversation
and classification, and for captions with the optional corpora. They hold 114k rows for reasoning and 200k for QA.
"""

from __future__ import annotations

from dataclasses import dataclass

ANNOTATIONS = "https://huggingface.co/datasets/OpenGVLab/VideoChat2-IT/resolve/main"


@dataclass(frozen=True)
class Published:
    """A corpus of VideoChat2-IT. `optional`: named by the published training code, but not among the corpora of the released models."""

    name: str
    path: str  # of the annotation file in the data set
    rows: int
    media: str
    url: str
    note: str = ""
    optional: bool = False

    @property
    def annotations(self) -> str:
        return f"{ANNOTATIONS}/{self.path}"

    @property
    def task(self) -> str:
        return self.name.split("_")[0]


WEBVID = "https://maxbain.com/webvid-dataset/"
GONE = "the site no longer serves the videos"
CUT = "cut into clips by the authors of VideoChat2: https://huggingface.co/datasets/ynhe/videochat2_data"

CORPORA = (
    Published("caption_textvr", "video/caption/textvr/train.json", 39_648, "TextVR", "https://github.com/callsys/textvr"),
    Published("caption_youcook2", "video/caption/youcook2/train.json", 8_700, "YouCook2", "https://youcook2.eecs.umich.edu/", CUT),
    Published(
        "classification_k710",
        "video/classification/k710/train.json",
        40_000,
        "Kinetics 400, 600 and 700",
        "https://github.com/OpenGVLab/UniFormerV2/blob/main/DATASET.md",
    ),
    Published(
        "classification_ssv2",
        "video/classification/ssv2/train.json",
        40_000,
        "Something-Something V2",
        "https://developer.qualcomm.com/software/ai-datasets/something-something",
    ),
    Published(
        "conversation_videochat2",
        "video/conversation/videochat2/train.json",
        9_584,
        "InternVid",
        "https://github.com/OpenGVLab/InternVideo/tree/main/Data/InternVid",
        CUT,
    ),
    Published(
        "conversation_videochatgpt",
        "video/conversation/videochatgpt/train.json",
        13_303,
        "ActivityNet, by way of Video-ChatGPT",
        "https://github.com/mbzuai-oryx/Video-ChatGPT/tree/main/data",
    ),
    Published("conversation_videochat1", "video/conversation/videochat1/train.json", 4_300, "WebVid", WEBVID, GONE),
    Published("reasoning_next_qa", "video/reasoning/next_qa/train.json", 34_132, "NExT-QA", "https://github.com/doc-doc/NExT-QA"),
    Published("reasoning_clevrer_qa", "video/reasoning/clevrer_qa/train.json", 40_000, "CLEVRER", "https://clevrer.csail.mit.edu/"),
    Published("reasoning_clevrer_mc", "video/reasoning/clevrer_mc/train.json", 40_000, "CLEVRER", "https://clevrer.csail.mit.edu/"),
    Published("vqa_ego_qa", "video/vqa/ego_qa/train.json", 7_813, "Ego4D", "https://ego4d-data.org/", CUT),
    Published("vqa_tgif_frame_qa", "video/vqa/tgif_frame_qa/train.json", 39_149, "TGIF (GIFs)", "https://github.com/YunseokJANG/tgif-qa"),
    Published(
        "vqa_tgif_transition_qa",
        "video/vqa/tgif_transition_qa/train.json",
        52_696,
        "TGIF (GIFs)",
        "https://github.com/YunseokJANG/tgif-qa",
    ),
    Published("vqa_webvid_qa", "video/vqa/webvid_qa/train.json", 100_000, "WebVid", WEBVID, GONE),
    Published("caption_webvid", "video/caption/webvid/train.json", 400_000, "WebVid", WEBVID, GONE, optional=True),
    Published("caption_videochat", "video/caption/videochat/train.json", 6_889, "WebVid", WEBVID, GONE, optional=True),
)
