"""The keyword arguments that every processor of transformers takes, for one call."""

import copy
from typing import Any, Self

from transformers.processing_utils import ImagesKwargs, ProcessingKwargs

from .processor_parts import ProcessorPart

# What of the stock text arguments has a meaning here.
TEXT_ARGUMENTS = ("padding", "truncation", "max_length", "pad_to_multiple_of", "padding_side")


class StockArgumentsMixin(ProcessorPart):
    """For a `ProcessorMixin` with an `image_processor`, whose texts get special tokens as it says."""

    # What a call asks of the tokenizer beside the processor's own lengths.
    text_arguments: dict[str, Any] = {}

    def adjusted(self, return_tensors: str, kwargs: Any) -> tuple[Self, str]:
        """This processor as a call's keyword arguments want it, and the kind of tensors that they ask for.

        Args:
            return_tensors: the call's own, which `text_kwargs` and `images_kwargs` may replace.
            kwargs: by name, or in `text_kwargs`, `images_kwargs` and `common_kwargs`.

        Raises:
            TypeError: an argument that nothing here reads.
            ValueError: a wrong value, or a size that pictures would not share.
        """
        if not kwargs:
            return self, return_tensors
        for name in ("videos", "audio"):
            if kwargs.pop(name, None) is not None:
                raise ValueError(f"{name}: this processor reads radiographs and texts; leave it out.")
        of_images = {*ImagesKwargs.__annotations__}
        of_images |= {*getattr(getattr(self.image_processor, "valid_kwargs", None), "__annotations__", {})}
        of_texts = {*TEXT_ARGUMENTS, "add_special_tokens", "return_tensors"}
        named = {name: kwargs.get(name) or {} for name in ("text_kwargs", "images_kwargs", "common_kwargs")}
        unknown = kwargs.keys() - of_images - of_texts - named.keys()
        unknown |= {*named["text_kwargs"]} - of_texts | {*named["images_kwargs"]} - of_images
        if unknown:
            raise TypeError(f"{min(unknown)}: {type(self).__name__} knows no such argument.")
        merge: Any = self._merge_kwargs
        merged = merge(ProcessingKwargs, **kwargs)
        texts, images = merged["text_kwargs"], merged["images_kwargs"]
        for each in (images, texts):
            return_tensors = each.pop("return_tensors", None) or return_tensors
        if texts.pop("add_special_tokens", self._ADD_SPECIAL_TOKENS) is not self._ADD_SPECIAL_TOKENS:
            raise ValueError("add_special_tokens: every text gets those that it is read with; leave it out.")
        for name in ("max_length", "pad_to_multiple_of"):
            if texts.get(name) is not None and texts[name] < 1:
                raise ValueError(f"{name}: {texts[name]} tokens; give 1 or more.")
        own = copy.copy(self)
        own.text_arguments = {name: texts[name] for name in TEXT_ARGUMENTS if name in texts}
        if images:
            own.image_processor = type(self.image_processor).from_dict(self.image_processor.to_dict() | images)
            self.check_image_processor(own.image_processor)
        return own, return_tensors

    @staticmethod
    def check_image_processor(image_processor) -> None:
        if not image_processor.do_center_crop and not (
            image_processor.do_resize and image_processor.size.get("height")
        ):
            raise ValueError("image_processor: pictures would keep different sizes; turn on do_center_crop.")
