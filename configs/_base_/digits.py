"""Few-shot digits: scikit-learn's scans at 48 x 48, 16 shots a class; validation on 300 images, test on 500 others."""

from xmodal.toys.digits import Digits

_digits = dict(type=Digits, size=48, shots=16)
train_dataloader = dict(batch_size=32, num_workers=0, dataset=dict(**_digits, split="train"))
val_dataloader = dict(batch_size=100, num_workers=0, dataset=dict(**_digits, split="val", test_mode=True))
test_dataloader = dict(batch_size=100, num_workers=0, dataset=dict(**_digits, split="test", test_mode=True))
