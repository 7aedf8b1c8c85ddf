"""Prompt sets: those that ship, and everybody's files."""

from collections import Counter

import pytest
from guiders import models
from guiders.evals.storage.prompts import load_prompts
from guiders.pipelines.generation.vocabulary import unknown_words


def test_geneval_is_complete():
    prompts = load_prompts("geneval")
    assert len(prompts) == len(set(prompts.texts)) == 553
    assert all(text.startswith("a photo of ") for text in prompts.texts)
    # Its six tasks: single object, two objects, counting, colours, position, two colours.
    assert sum(" and a" in text for text in prompts.texts) == 99 + 100
    counts = Counter(text.split()[3] for text in prompts.texts)
    assert sum(counts[number] for number in ("two", "three", "four")) == 80
    places = ("left of", "right of", "above", "below")
    assert sum(any(f" {p} " in text for p in places) for text in prompts.texts) == 100
    assert prompts.texts[0] == "a photo of a bench"


def test_emoji_captions_are_those_the_model_knows():
    train, held_out = load_prompts("emoji"), load_prompts("emoji-held-out")
    assert (len(train), len(held_out)) == (8556, 999)
    assert not set(train.texts) & set(held_out.texts)
    for text in train.texts[:200]:
        assert unknown_words(text, models.path("emoji")) == {}
    labels = set(models.load("emoji-classifier").config.label2id)
    assert set(train.labels) - {""} == labels
    assert train[8556] == train[0]
    assert train.label(8557) == train.label(1)


def test_files_of_every_form(tmp_path):
    def read(name, text):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return load_prompts(str(tmp_path / name))

    assert read("a.txt", "one\n\n two \n").texts == ("one", "two")
    table = read("b.csv", 'id,caption,category\n1,"a, b",x\n2,c,\n')
    assert (table.texts, table.labels) == (("a, b", "c"), ("x", ""))
    assert read("c.tsv", "text\nd\te\n").texts == ("d",)
    lines = read("d.jsonl", '{"prompt": "e", "tag": "t"}\n{"prompt": "f"}\n')
    assert (lines.texts, lines.labels) == (("e", "f"), ("t", ""))
    folder = tmp_path / "dpg"  # DPG-Bench's layout
    folder.mkdir()
    for number in (10, 2):
        (folder / f"{number}.txt").write_text(f"prompt\n{number} ")
    assert load_prompts(str(folder)).texts == ("prompt 2", "prompt 10")
    assert read("e.txt", "one").digest != read("f.txt", "two").digest


def test_what_cannot_be_read_is_named(tmp_path):
    (tmp_path / "bad.jsonl").write_text("{")
    (tmp_path / "none.csv").write_text("id\n1\n")
    (tmp_path / "empty.txt").write_text("\n")
    for source, words in (
        (str(tmp_path / "bad.jsonl"), "prompts is .*bad.jsonl'"),
        (str(tmp_path / "none.csv"), "none.csv has no column prompt, caption or text"),
        (str(tmp_path / "empty.txt"), "holds no prompt"),
        ("nowhere", "allowed is one of emoji, emoji-held-out, geneval"),
        ("dpg", "do not ship: give the folder dpg_bench/prompts"),
    ):
        with pytest.raises(ValueError, match=words):
            load_prompts(source)
