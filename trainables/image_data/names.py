"""The names by which the images of a data set are known and looked for."""

PUBLISHED = ("cifar10", "cifar100", "fashion_mnist")
"""Data sets that torchvision can download; CIFAR under its published name is checked against the published files."""

IMAGENET = "imagenet"
"""The paper has experiments on it; users have to download its images themselves."""

CIFAR_FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
FASHION_FOLDER = "FashionMNIST"
IDX_FILES = tuple(f"{split}-{kind}-ubyte" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
TRAIN_NAMES, TEST_NAMES = ("train",), ("test", "val", "validation", "valid")


def few(names: list[str], at_most: int = 3, num_names: int | None = None) -> str:
    """The first of these names, and how many more there are; `num_names` is how many, if `names` are not all."""
    more = (num_names or len(names)) - at_most
    return ", ".join(names[:at_most]) + (f" and {more} more" if more > 0 else "")
