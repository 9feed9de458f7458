"""What a frozen encoder made of the images, in memory, so that a decoder's training runs it once."""

from collections.abc import Callable, Sequence

import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset
from tqdm import tqdm

from modeling_cogaze.report_generation import EncodedImages

from .prompt_hints import encode_images


class EncodedReports(Dataset):
    """Images as a report generator's decoder reads them, with their reports as labels.

    An item has all views of an image; a batch takes one of each, drawn at random where there are several.

    Args:
        memory: (V, N, M, W), V views of N images.
        labels: of each view N rows of tokens, without padding: without the earlier study, a report compares nothing.
        prompts: N rows of tokens, without padding, that the reports stand behind; None where there are none.
    """

    def __init__(
        self, memory: torch.Tensor, labels: list[list[torch.Tensor]], prompts: list[torch.Tensor] | None = None
    ):
        self.memory = memory
        self.labels = labels
        self.prompts = prompts

    def __len__(self) -> int:
        return self.memory.shape[1]

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        labels = [rows[index] for rows in self.labels]
        item = {"image_id": index, "views": self.memory[:, index], "labels": labels}
        return item if self.prompts is None else item | {"prompt": self.prompts[index]}

    @classmethod
    @torch.no_grad()
    def encode(cls, model, dataset, views: Sequence[Callable], batch_size: int = 32) -> "EncodedReports":
        """Run the model's encoder over a data set.

        Args:
            model: has `encode`, and is on its device.
            views: collators that give inputs and labels; the encoder sees the data set once through each.
        """
        was_training = model.training
        model.eval()
        memories, labels, prompts = [], [], []
        for number, collate in enumerate(views):
            parts = []
            labels.append([])
            for start in tqdm(range(0, len(dataset), batch_size), desc="Encoding images", leave=False, disable=None):
                batch = collate([dataset[row] for row in range(start, min(start + batch_size, len(dataset)))])
                labels[number] += [row[row != -100] for row in batch.pop("labels")]
                if number == 0 and "input_ids" in batch:
                    masks = batch["attention_mask"].bool()
                    prompts += [row[mask] for row, mask in zip(batch["input_ids"], masks, strict=True)]
                parts.append(encode_images(model, batch)[0].cpu())
            memories.append(torch.cat(parts))
        model.train(was_training)
        return cls(torch.stack(memories), labels, prompts or None)


def collate_encoded(items: list[dict[str, torch.Tensor]]) -> dict:
    views = [_drawn(len(item["views"])) for item in items]
    memory = torch.stack([item["views"][view] for item, view in zip(items, views, strict=True)])
    labels = [item["labels"][view] for item, view in zip(items, views, strict=True)]
    batch = {
        "encoder_outputs": EncodedImages(last_hidden_state=memory),
        "labels": pad_sequence(labels, batch_first=True, padding_value=-100),
    }
    if "prompt" in items[0]:
        prompts = [item["prompt"] for item in items]
        masks = [torch.ones_like(prompt) for prompt in prompts]
        for name, rows in (("input_ids", prompts), ("attention_mask", masks)):
            batch[name] = pad_sequence(rows, batch_first=True, padding_side="left")
    return batch


def _drawn(views: int) -> int:
    return int(torch.randint(views, ())) if views > 1 else 0
