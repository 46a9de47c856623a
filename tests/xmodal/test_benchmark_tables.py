"""Every class table, size, template and folder of the benchmarks, against what their papers and releases publish."""

import pytest

from xmodal.evaluation.coop_data import COOP11, IMAGENET_TEMPLATES
from xmodal.evaluation.elevater_catalog import CARDS, REFERENCE
from xmodal.evaluation.elevater_catalog import plain as plain_name
from xmodal.evaluation.folders import DOMAINBED, SHIFTS
from xmodal.evaluation.image_benchmarks import BENCHMARKS, files_of
from xmodal.evaluation.plans import BaseToNew, Coop11, CrossDataset, DomainBed, DomainShift, MultiTask, Tip, ZeroShot

VTAB_PUBLISHED = {
    "Natural": (
        "cifar 100 10000, caltech101 102 6084, dtd 47 1880, flowers 102 6149, pets 37 3669, svhn 10 26032, "
        "sun397 397 21750"
    ),
    "Specialized": "camelyon 2 32768, eurosat 10 5400, resisc45 45 6300, retinopathy 5 42670",
    "Structured": (
        "clevr_count 8 15000, clevr_dist 6 15000, dmlab 6 22735, kitti 4 711, dsprites_loc 16 73728, "
        "dsprites_ori 16 73728, smallnorb_azi 18 12150, smallnorb_ele 9 12150"
    ),
}


def test_vtab_has_the_published_sizes():
    want = {}
    for group, rows in VTAB_PUBLISHED.items():
        for row in rows.split(", "):
            name, classes, test = row.split()
            want[name] = (group, int(classes), int(test))
    assert {name: (t.group, t.num_classes, t.num_test) for name, t in BENCHMARKS["vtab"].items()} == want
    assert list(BENCHMARKS["vtab"]) == list(want)


@pytest.mark.parametrize(
    ("split", "file"),
    [("train", "train800.txt"), ("val", "val200.txt"), ("trainval", "train800val200.txt"), ("test", "test.txt")],
)
def test_vtab_lists_have_the_published_names(tmp_path, split, file):
    (tmp_path / "svhn").mkdir()
    for name in ("train800.txt", "val200.txt", "train800val200.txt", "test.txt"):
        (tmp_path / "svhn" / name).write_text("")
    assert files_of("vtab", BENCHMARKS["vtab"]["svhn"], split, tmp_path)["annotation"] == str(tmp_path / "svhn" / file)


def test_fine_grained_sets_have_the_published_sizes():
    fgvc = {"cub": (200, 5794), "nabirds": (555, 24633), "flowers": (102, 6149), "dogs": (120, 8580),
            "cars": (196, 8041)}  # fmt: skip
    assert {n: (t.num_classes, t.num_test) for n, t in BENCHMARKS["fgvc"].items()} == fgvc
    few = {"aircraft": (100, 3333), "food101": (101, 30300), "flowers": (102, 2463), "pets": (37, 3669),
           "cars": (196, 8041)}  # fmt: skip
    assert {n: (t.num_classes, t.num_test) for n, t in BENCHMARKS["fewshot"].items()} == few
    assert {t.group for t in BENCHMARKS["fgvc"].values()} == {"FGVC"}
    assert {t.group for t in BENCHMARKS["fewshot"].values()} == {"Few-shot"}
    assert list(BENCHMARKS) == ["vtab", "fgvc", "fewshot"]


COOP_PUBLISHED = """
imagenet      | ImageNet            | imagenet/images                   |                                     | 1000 1281167 - 50000 | a photo of a {}.
caltech101    | Caltech101          | caltech-101/101_ObjectCategories  | split_zhou_Caltech101.json          | 100 4128 1649 2465   | a photo of a {}.
oxford_pets   | OxfordPets          | oxford_pets/images                | split_zhou_OxfordPets.json          | 37 2944 736 3669     | a photo of a {}, a type of pet.
stanford_cars | StanfordCars        | stanford_cars                     | split_zhou_StanfordCars.json        | 196 6509 1635 8041   | a photo of a {}.
oxford_flowers| OxfordFlowers       | oxford_flowers/jpg                | split_zhou_OxfordFlowers.json       | 102 4093 1633 2463   | a photo of a {}, a type of flower.
food101       | Food101             | food-101/images                   | split_zhou_Food101.json             | 101 50500 20200 30300| a photo of {}, a type of food.
fgvc_aircraft | FGVCAircraft        | fgvc_aircraft/images              |                                     | 100 3334 3333 3333   | a photo of a {}, a type of aircraft.
sun397        | SUN397              | sun397/SUN397                     | split_zhou_SUN397.json              | 397 15880 3970 19850 | a photo of a {}.
dtd           | DescribableTextures | dtd/images                        | split_zhou_DescribableTextures.json | 47 2820 1128 1692    | {} texture.
eurosat       | EuroSAT             | eurosat/2750                      | split_zhou_EuroSAT.json             | 10 13500 5400 8100   | a centered satellite photo of {}.
ucf101        | UCF101              | ucf101/UCF-101-midframes          | split_zhou_UCF101.json              | 101 7639 1898 3783   | a photo of a person doing {}.
"""  # noqa: E501


def test_the_eleven_sets_of_coop_are_the_published_ones():
    found = {}
    for name, d in COOP11.items():
        counts = tuple("-" if n is None else str(n) for n in d.counts)
        found[name] = (d.class_name, "/".join(filter(None, (d.folder, d.image_dir))), d.split_file, counts, d.template)
    want = {}
    for line in COOP_PUBLISHED.strip().splitlines():
        name, kind, folder, split, counts, template = (cell.strip() for cell in line.split("|"))
        want[name] = (kind, folder, split, tuple(counts.split()), template)
    assert found == want
    assert all(name == d.name for name, d in COOP11.items())


def test_the_seven_sentences_of_imagenet():
    want = (
        "itap of a {}.", "a bad photo of the {}.", "a origami {}.", "a photo of the large {}.",
        "a {} in a video game.", "art of the {}.", "a photo of the small {}.",
    )  # fmt: skip
    assert want == IMAGENET_TEMPLATES


def test_shifted_sets_and_domains_are_the_published_ones():
    want = {
        "imagenetv2": ("imagenetv2", "imagenetv2-matched-frequency-format-val", (1000, 10000), True),
        "imagenet_sketch": ("imagenet-sketch", "images", (1000, 50889), False),
        "imagenet_a": ("imagenet-adversarial", "imagenet-a", (200, 7500), False),
        "imagenet_r": ("imagenet-rendition", "imagenet-r", (200, 30000), False),
    }
    assert {n: (s.folder, s.image_dir, s.counts, s.numbered) for n, s in SHIFTS.items()} == want
    want = {
        "PACS": ("A C P S", 7),
        "VLCS": ("C L S V", 5),
        "OfficeHome": ("A C P R", 65),
        "TerraIncognita": ("L100 L38 L43 L46", 10),
    }
    assert {n: (" ".join(d.domains), d.classes) for n, d in DOMAINBED.items()} == want


ELEVATER_PUBLISHED = """
caltech-101 | 102 | 3060/-/6084 | mean-per-class | 34
cifar-10 | 10 | 50000/-/10000 | accuracy | 18
cifar-100 | 100 | 50000/-/10000 | accuracy | 18
country211 | 211 | 31650/10550/21100 | accuracy | 5
dtd | 47 | 1880/1880/1880 | accuracy | 8
eurosat_clip | 10 | 5000/5000/5000 | accuracy | 3
fer-2013 | 7 | 28709/3589/3589 | accuracy | 6
fgvc-aircraft-2013b-variants102 | 100 | 3334/3333/3333 | mean-per-class | 2
food-101 | 101 | 75750/-/25250 | accuracy | 1
gtsrb | 43 | 26640/12569/12630 | accuracy | 3
hateful-memes | 2 | 8500/-/500 | roc_auc | 1
kitti-distance | 4 | 6347/423/711 | accuracy | 1
mnist | 10 | 60000/-/10000 | accuracy | 1
oxford-flower-102 | 102 | 1020/1020/6149 | mean-per-class | 1
oxford-iiit-pets | 37 | 3680/-/3669 | mean-per-class | 1
patch-camelyon | 2 | 262144/32768/32768 | accuracy | 1
rendered-sst2 | 2 | 6920/827/1821 | accuracy | 1
resisc45_clip | 45 | 3150/3150/25200 | accuracy | 18
stanford-cars | 196 | 8144/-/8041 | accuracy | 8
voc-2007-classification | 20 | 2501/2510/4952 | 11point_mAP | 1
"""


def test_the_twenty_sets_of_elevater_are_the_published_ones():
    want = {}
    for line in ELEVATER_PUBLISHED.strip().splitlines():
        name, classes, sizes, metric, templates = (cell.strip() for cell in line.split("|"))
        want[name] = (int(classes), *(0 if n == "-" else int(n) for n in sizes.split("/")), metric, int(templates))
    assert {n: (c.classes, c.train, c.val, c.test, c.metric, c.templates) for n, c in CARDS.items()} == want
    assert [n for n, c in CARDS.items() if c.multilabel] == ["voc-2007-classification"]
    assert [n for n, c in CARDS.items() if not c.center_crop] == ["kitti-distance"]
    assert {n: c.search_shots for n, c in CARDS.items() if c.search_shots} == {"patch-camelyon": 10000}
    assert (REFERENCE.name, REFERENCE.classes, REFERENCE.test, REFERENCE.templates) == ("imagenet-1k", 1000, 50000, 80)


def test_folders_are_known_by_their_names_without_the_date():
    assert plain_name("oxford-iiit-pets_20211007") == plain_name("Oxford_IIIT_Pets") == "oxfordiiitpets"
    assert plain_name("cifar-10") == plain_name("cifar_10_20211007") != plain_name("cifar-100")


def test_protocols_have_the_papers_shots_and_seeds():
    usual = (1, 2, 4, 8, 16)
    want = {
        Coop11: ((1, 2, 3), usual),
        MultiTask: ((1, 2, 3), usual),
        BaseToNew: ((1, 2, 3), (16,)),
        CrossDataset: ((1, 2, 3), (16,)),
        DomainShift: ((1, 2, 3), (16,)),
        Tip: ((1,), usual),
        ZeroShot: ((1,), (0,)),
        DomainBed: ((0, 1, 2), (-1,)),
    }
    assert {p: (p.seeds, p.shots) for p in want} == want
    bed = DomainBed()
    assert (bed.steps, bed.interval, bed.holdout) == (5001, 300, 0.2)
    assert Tip().search_on == "val"
