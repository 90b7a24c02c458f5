import json
import os
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from score_edge.calibration.frames import read_clips  # noqa: E402
from score_edge.errors import ScoreEdgeError  # noqa: E402
from score_edge.learning.curriculum import (  # noqa: E402
    OPEN_QUESTIONS,
    footage_scenes,
    image_scenes,
    pseudo_video,
    read_questions,
    world_scenes,
    world_stills,
)
from score_edge.learning.features import Features  # noqa: E402
from score_edge.reference import world  # noqa: E402
from score_edge.runtime.sources.images import IMAGE_SUFFIXES  # noqa: E402
from score_edge.runtime.sources.video_file import VIDEO_SUFFIXES  # noqa: E402


def footage(folder, names=("a.mp4", "b.mp4")):
    for name in names:
        writer = cv2.VideoWriter(str(folder / name), cv2.VideoWriter_fourcc(*"mp4v"), 4.0, (32, 32))
        for value in range(8):
            writer.write(np.full((32, 32, 3), 20 * value, np.uint8))
        writer.release()


def lines(path, *rows):
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def test_a_pseudo_video_changes_only_where_the_still_does():
    stills = [np.full((8, 8, 3), value, np.uint8) for value in (40, 120, 200)]
    frames = pseudo_video(np.random.default_rng(0), stills, 12, 2, 4.0)
    assert [frame.time_s for frame in frames] == [i / 4 for i in range(24)]
    video = np.stack([frame.image for frame in frames]).astype(int)
    shown = np.round((video.mean(axis=(1, 2, 3)) - 40) / 80).astype(int)
    assert shown[0] == 0 and shown[-1] == 2 and set(np.diff(shown)) == {0, 1}
    assert (shown[::2] == shown[1::2]).all()  # both frames of a step show the same still
    noise = video - np.array([40, 120, 200])[shown][:, None, None, None]
    assert 1 < noise.std() < 3 and not np.array_equal(video[0], video[1])


def test_world_scenes_are_its_training_clips():
    (scene,) = world_scenes(1, 4, start=7)
    frames, asked = scene.load()
    clip = world.make_clip(world.TRAIN_SEED, 7, 4)
    assert np.array_equal(np.stack([frame.image for frame in frames]), clip.images)
    assert [frame.time_s for frame in frames] == [frame.time_s for frame in clip.frames()]
    assert asked == [(q.text, q.answer) for q in clip.questions]


def test_stills_ask_only_what_has_one_answer():
    for scene in world_stills(10, 4):
        frames, asked = scene.load()
        assert len(frames) == 4 * world.FRAMES_PER_STEP
        assert asked and len({text for text, _ in asked}) == len(asked)
        assert all(answer in world.SHAPES or answer is None for _, answer in asked)
    one, other = world_stills(2, 4)
    assert one.name != other.name


def test_footage_brings_its_questions_or_is_asked_open_ones(tmp_path):
    footage(tmp_path)
    asked = lines(tmp_path / "q.jsonl", {"video": "a.mp4", "question": "what?", "answer": "grey"})
    (scene,) = footage_scenes(tmp_path, asked, 2, 2, 4.0)
    frames, questions = scene.load()
    assert len(frames) == 4 and questions == [("what?", "grey")]
    assert [q for q, _ in footage_scenes(tmp_path, None, 2, 2, 4.0)[1].load()[1]] == list(OPEN_QUESTIONS)


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        (["{"], "line 1 is not JSON"),
        ([{"video": "a.mp4"}], "line 1 lacks video or question"),
        (["[1]"], "line 1 lacks video or question"),
        ([{"video": "c.mp4", "question": "what?"}], "there is no video"),
        ([{"video": "a.mp4", "question": "what?", "answer": " "}], "the answer is ' '"),
        ([{"video": "a.mp4", "question": "a?", "answer": "b"}, {"video": "b.mp4", "question": "c?"}], "some have none"),
        ([""], "holds no question"),
        (["[" * 100_000], "line 1 is not JSON"),
        ([{"video": "a.mp4", "question": " "}], "line 1 lacks video or question"),
        ([{"video": "a.mp4", "question": "\ud800"}], "line 1 is not JSON.*surrogates"),
    ],
)
def test_broken_questions_are_refused(tmp_path, rows, text):
    footage(tmp_path)
    with pytest.raises(ScoreEdgeError, match=text):
        read_questions(lines(tmp_path / "q.jsonl", *rows), tmp_path)


def test_a_question_may_hold_any_character_but_the_end_of_a_line(tmp_path):
    footage(tmp_path)
    question = "one\u2028two\x85three?"
    row = json.dumps({"video": "a.mp4", "question": question}, ensure_ascii=False)
    (tmp_path / "q.jsonl").write_bytes(f"\ufeff{row}\r\n".encode())  # as an editor of Windows writes it
    assert read_questions(tmp_path / "q.jsonl", tmp_path) == {tmp_path / "a.mp4": [(question, None)]}


def test_a_file_name_that_is_no_utf8_is_refused_in_words(tmp_path):
    footage(tmp_path, ("a.mp4",))
    (tmp_path / "a.mp4").rename(tmp_path / os.fsdecode(b"\xff.mp4"))
    features = Features(tmp_path / "features", SimpleNamespace(fingerprint="a model"), 1)
    with pytest.raises(ScoreEdgeError, match="is not UTF-8"):
        features.prepare(footage_scenes(tmp_path, None, 2, 2, 4.0))


def test_what_does_not_fit_is_left_out_evenly_and_with_a_warning(tmp_path, caplog):
    model = SimpleNamespace(grid=(6, 6), width=192)
    clip_bytes = 16 * 36 * 192 * 2
    scenes = world_scenes(90, 16)
    assert Features(tmp_path, model, 90 * clip_bytes).fit(scenes, 16) == scenes and not caplog.messages
    kept = Features(tmp_path, model, 30 * clip_bytes).fit(scenes, 16)
    assert kept == scenes[::3]
    assert caplog.messages == ["30 of 90 clips are learned from: for all of them raise --cache-mb to 19"]
    assert 18 << 20 < 90 * clip_bytes <= 19 << 20


def test_folders_without_anything_to_learn_from_are_refused(tmp_path):
    with pytest.raises(ScoreEdgeError, match="there is no folder"):
        footage_scenes(tmp_path / "nowhere", None, 2, 2, 4.0)
    (tmp_path / "._a.mp4").write_bytes(b"what macOS leaves beside a copied file")
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(ScoreEdgeError, match=r"holds no .*\.mp4"):
        footage_scenes(tmp_path, None, 2, 2, 4.0)
    cv2.imwrite(str(tmp_path / "one.png"), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ScoreEdgeError, match="one image only"):
        image_scenes(tmp_path, 3, 2, 2, 4.0)


@pytest.mark.parametrize("suffix", sorted(VIDEO_SUFFIXES))
def test_every_kind_of_video_that_calibrates_teaches(tmp_path, suffix):
    footage(tmp_path, ["a.mp4"])
    (tmp_path / "a.mp4").rename(tmp_path / f"a{suffix.upper()}")  # what it is stands in the file, not in its name
    (scene,) = footage_scenes(tmp_path, None, 2, 2, 4.0)
    assert len(scene.load()[0]) == 4 and len(list(read_clips([tmp_path], 4.0))) == 1


@pytest.mark.parametrize("suffix", sorted(IMAGE_SUFFIXES))
def test_every_kind_of_image_that_opens_teaches(tmp_path, suffix):
    for i in range(2):
        cv2.imwrite(str(tmp_path / f"{i}{suffix}"), np.full((8, 8, 3), 60 * i, np.uint8))
    assert len(image_scenes(tmp_path, 1, 3, 2, 4.0)[0].load()[0]) == 6


def test_images_become_pseudo_videos(tmp_path):
    for i in range(3):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((8, 8, 3), 60 * i, np.uint8))
    frames, asked = image_scenes(tmp_path, 2, 3, 2, 4.0)[0].load()
    assert len(frames) == 6 and asked[0] == (OPEN_QUESTIONS[0], None)


def test_other_footage_in_the_same_place_is_another_scene(tmp_path):
    footage(tmp_path)
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for i, path in enumerate(paths):
        cv2.imwrite(str(path), np.full((8, 8, 3), 60 * i, np.uint8))

    def names():
        return [
            scene.name for scene in (*image_scenes(tmp_path, 9, 3, 2, 4.0), *footage_scenes(tmp_path, None, 2, 2, 4.0))
        ]

    before = names()
    assert len(set(before)) == 11 and names() == before
    for path in (*paths, tmp_path / "a.mp4"):  # longer, and with the times of the old ones, as `cp -p` gives them
        was = path.stat().st_mtime_ns
        path.write_bytes(path.read_bytes() + b"more")
        os.utime(path, ns=(was, was))
    longer = names()
    assert not set(longer[:10]) & set(before) and longer[10] == before[10]
    for path in (*paths, tmp_path / "b.mp4"):
        os.utime(path, ns=(1, 1))
    later = names()
    assert not set(later[:9]) & set(longer) and later[9] == longer[9] and later[10] != longer[10]


def test_a_scene_of_images_is_the_same_every_time_it_is_loaded(tmp_path):
    for i in range(3):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((8, 8, 3), 60 * i, np.uint8))
    (scene,) = image_scenes(tmp_path, 1, 3, 2, 4.0)
    first, second = ([frame.image for frame in scene.load()[0]] for _ in range(2))
    assert np.array_equal(first, second)


def test_scenes_take_turns_through_regimes_and_plain_ones_keep_their_names():
    plain, mixed = world_scenes(4, 3), world_scenes(4, 3, regimes=("plain", "rain"))
    assert [scene.name for scene in mixed][::2] == [scene.name for scene in plain][::2]
    assert len({scene.name for scene in (*plain, *mixed)}) == 6
    for index, (scene, regime) in enumerate(zip(mixed, ("plain", "rain") * 2, strict=True)):
        frames, asked = scene.load()
        clip = world.make_clip(world.TRAIN_SEED, index, 3, regime)
        assert np.array_equal([frame.image for frame in frames], clip.images) and len(asked) == len(clip.questions)
