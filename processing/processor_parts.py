"""What the parts that a processor is made of may count on, as a type checker is told it; nothing at run time."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import ProcessorMixin

    class ProcessorPart(ProcessorMixin):
        image_processor: Any
        tokenizer: Any
        grid_size: Any
        max_companions: int
        max_report_length: int
        max_transcript_length: int
        gaze_maps: str
        report_ending: str
        exclusive_classes: bool
        text_arguments: dict[str, Any]
        _REPORT: str
        _TRANSCRIPT: str
        _ADD_SPECIAL_TOKENS: bool
        _texts: Callable[..., list[str]]
        _tokenize: Callable[..., dict[str, Any]]
        scaled_decoding: bool
        read_picture: Callable[..., Any]
        _framed: Callable[..., Any]
        _view_ids: Callable[..., Any]
        _pixel_size: Callable[[], tuple[int, int]]
        crop_box: Callable[..., tuple[float, float, float, float]]
else:
    ProcessorPart = object

__all__ = ["ProcessorPart"]
