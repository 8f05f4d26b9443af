"""Tables of results."""

from mic_det.engine.report import results_table


def test_table_of_two_models():
    metrics = {"AP": 12.345, "AP50": 33.3, "AP50-car": 40.0, "AP50-bus": float("nan")}
    results = {
        "student": {"val": metrics, "stability": 5.0},
        "teacher": {"val": {**metrics, "AP50": 44.4}},
    }
    header, _, student, teacher = results_table(results).splitlines()
    assert header.split() == ["model", "data", "AP50", "AP", "car", "bus"]
    assert student.split() == ["student", "val", "33.3", "12.3", "40.0", "nan"]
    assert teacher.split()[2] == "44.4"


def test_nothing_evaluated_is_said():
    assert "DATASETS.TEST is empty" in results_table({"student": {}, "teacher": {"stability": 1.0}})
