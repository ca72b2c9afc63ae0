"""Annotations: each format from a file made by hand, and what damaged ones say."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from refnet.errors import ImageError
from refnet.training.annotations import (
    AnnotationError,
    boxed_photos,
    crop_list,
    dlib,
    landmark_faces,
    table,
    voc,
    wflw,
    wider,
)


def numbers(count: int) -> str:
    return " ".join(str(i / 10) for i in range(count))


def test_wflw_lists_give_points_and_photos(tmp_path: Path) -> None:
    line = f"{numbers(196)} 1 2 3 4 0 1 0 0 0 1 37--Soccer/37_Soccer_1.jpg\n"
    (tmp_path / "list.txt").write_text(f"{line}\n{line}")
    first, second = wflw(tmp_path / "list.txt", tmp_path)
    assert first.image == tmp_path / "37--Soccer/37_Soccer_1.jpg"
    assert second.points.shape == (98, 2)
    assert first.points[97].tolist() == [19.4, 19.5]
    assert len(landmark_faces(tmp_path)) == 2
    (tmp_path / "list.txt").write_text(numbers(200))
    with pytest.raises(AnnotationError, match="line 1: 200 fields, WFLW has 207"):
        list(wflw(tmp_path / "list.txt", tmp_path))


def test_lists_of_prepared_crops_give_points_in_pixels(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((50, 100, 3), np.uint8))
    (tmp_path / "list.txt").write_text(f"a.png {' '.join(['0.5'] * 196)}\n")
    (face,) = crop_list(tmp_path / "list.txt")
    assert face.cropped
    assert face.points[3].tolist() == [50, 25]
    assert len(landmark_faces(tmp_path)) == 1
    (tmp_path / "list.txt").write_text(f"b.png {' '.join(['0.5'] * 196)}\n")
    with pytest.raises(ImageError, match="there is no"):
        list(crop_list(tmp_path / "list.txt"))
    (tmp_path / "list.txt").write_text(f"a.png {' '.join(['half'] * 196)}\n")
    with pytest.raises(AnnotationError, match="line 1"):
        list(crop_list(tmp_path / "list.txt"))


DLIB = """<?xml version='1.0'?><dataset><images><image file='p.jpg'>
<box top='10' left='20' width='30' height='40' ignore='1'>
<part name='01' x='3' y='4'/><part name='00' x='1' y='2'/></box>
<box top='0' left='0' width='5' height='5'><part name='00' x='5' y='6'/><part name='01' x='7' y='8'/></box>
</image></images></dataset>"""


def test_dlib_files_give_boxes_points_and_what_to_ignore(tmp_path: Path) -> None:
    (tmp_path / "faces.xml").write_text(DLIB)
    ((photo, points),) = dlib(tmp_path / "faces.xml")
    assert photo.boxes.tolist() == [[20, 10, 50, 50], [0, 0, 5, 5]]
    assert photo.ignored.tolist() == [True, False]
    assert points.tolist() == [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]
    assert len(landmark_faces(tmp_path)) == 2
    assert boxed_photos(tmp_path)[0].classes == ("face", "face")


def test_files_that_are_not_xml_or_define_entities_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text("<dataset><images>")
    with pytest.raises(AnnotationError, match=r"a\.xml"):
        list(dlib(tmp_path / "a.xml"))
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><dataset>&b;</dataset>'
    (tmp_path / "a.xml").write_text(bomb)
    with pytest.raises(AnnotationError, match="entities"):
        list(dlib(tmp_path / "a.xml"))


VOC = """<annotation><filename>C:\\photos\\x.jpg</filename>
<object><name>volleyball</name><difficult>0</difficult>
<bndbox><xmin>11</xmin><ymin>346</ymin><xmax>41</xmax><ymax>374</ymax></bndbox></object>
<object><name>basketball</name><difficult>1</difficult>
<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>"""


def test_pascal_voc_counts_from_one(tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames_labels").mkdir()
    (tmp_path / "frames_labels" / "x.xml").write_text(VOC)
    (tmp_path / "frames" / "x.png").touch()
    (photo,) = boxed_photos(tmp_path / "frames")
    assert photo.image == tmp_path / "frames" / "x.png"
    assert photo.boxes.tolist() == [[10, 345, 40, 373], [0, 0, 8, 8]]
    assert photo.classes == ("volleyball", "basketball")
    assert photo.ignored.tolist() == [False, True]
    elsewhere = voc(tmp_path / "frames_labels" / "x.xml", tmp_path)
    assert elsewhere.image == tmp_path / "x.jpg"
    (tmp_path / "bad.xml").write_text(VOC.replace("<xmin>11</xmin>", ""))
    with pytest.raises(AnnotationError, match="lacks a corner"):
        voc(tmp_path / "bad.xml", tmp_path)


WIDER = """0--Parade/a.jpg
2
10 20 30 40 0 0 0 0 0 0
1 2 0 4 0 0 0 0 0 0
0--Parade/b.jpg
0
0 0 0 0 0 0 0 0 0 0
0--Parade/c.jpg
1
5 5 5 5 2 0 0 1 2 0
"""


def test_wider_face_gives_boxes_and_what_to_ignore(tmp_path: Path) -> None:
    (tmp_path / "truth.txt").write_text(WIDER)
    (tmp_path / "images").mkdir()
    photos = boxed_photos(tmp_path)
    assert [p.image for p in photos] == [tmp_path / f"images/0--Parade/{n}.jpg" for n in "abc"]
    assert photos[0].boxes.tolist() == [[10, 20, 40, 60], [1, 2, 1, 6]]
    assert photos[0].ignored.tolist() == [False, True]
    assert photos[1].boxes.shape == (0, 4)
    assert photos[2].ignored.tolist() == [True]
    (tmp_path / "truth.txt").write_text(WIDER.replace("\n0 0 0 0 0 0 0 0 0 0", ""))
    assert [len(p.boxes) for p in wider(tmp_path / "truth.txt", tmp_path)] == [2, 0, 1]
    (tmp_path / "truth.txt").write_text("a.jpg\nmany\n")
    with pytest.raises(AnnotationError, match="line 2"):
        list(wider(tmp_path / "truth.txt", tmp_path))


def test_tables_ignore_boxes_of_low_scores_and_keep_photos_without_any(tmp_path: Path) -> None:
    text = "image,x1,y1,x2,y2,score\na.jpg,1,2,3,4,0.9\na.jpg,5,6,7,8,0.1\nb.jpg,,,,,\n"
    (tmp_path / "set_faces.csv").write_text(text)
    (tmp_path / "set").mkdir()
    first, second = boxed_photos(tmp_path)
    assert first.image == tmp_path / "set" / "a.jpg"
    assert first.ignored.tolist() == [False, True]
    assert second.boxes.shape == (0, 4)
    (tmp_path / "bad.csv").write_text("image,x1\n")
    with pytest.raises(AnnotationError, match="no column x2, y1, y2"):
        list(table(tmp_path / "bad.csv", tmp_path))


def test_folders_without_annotations_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match="no landmarks"):
        landmark_faces(tmp_path)
    with pytest.raises(AnnotationError, match="no boxes"):
        boxed_photos(tmp_path)


def test_a_table_tells_of_invalid_boxes_of_blur_and_of_occlusion(tmp_path: Path) -> None:
    (tmp_path / "boxes.csv").write_text(
        "image,x1,y1,x2,y2,blur,occlusion,pose,invalid\na.png,0,0,9,9,2,1,0,0\na.png,5,5,9,9,0,0,1,1\n"
    )
    (tmp_path / "images.csv").write_text("image,width,height\na.png,10,10\n")  # no boxes: left out
    (photo,) = boxed_photos(tmp_path)
    assert photo.ignored.tolist() == [False, True]
    assert {n: own.tolist() for n, own in photo.attributes.items()} == {
        "blur": [2, 0],
        "occlusion": [1, 0],
    }


def test_wider_text_tells_of_blur_and_of_occlusion(tmp_path: Path) -> None:
    (tmp_path / "wider.txt").write_text("a/b.jpg\n1\n10 20 30 40 2 0 0 0 1 0\n")
    (photo,) = boxed_photos(tmp_path)
    assert {n: own.tolist() for n, own in photo.attributes.items()} == {
        "blur": [2],
        "occlusion": [1],
    }
