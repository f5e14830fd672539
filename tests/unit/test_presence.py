"""Who was here lately."""

from nanohook.presence import Presence


def test_whoever_is_alone_has_no_others():
    made = Presence(10.0)
    for now_s in (1.0, 2.0, 3.0):
        made.note("ada", now_s=now_s)
    assert not made.has_others("ada", now_s=3.0)
    assert made.has_others("eve", now_s=3.0)


def test_others_are_here_for_a_while_however_often_one_comes_meanwhile():
    made = Presence(10.0)
    made.note("eve", now_s=1.0)
    for now_s in (2.0, 5.0, 10.9):
        made.note("ada", now_s=now_s)
        assert made.has_others("ada", now_s=now_s)
    made.note("ada", now_s=11.0)
    assert not made.has_others("ada", now_s=11.0)


def test_of_many_people_each_has_the_others():
    made = Presence(10.0)
    for now_s, name in enumerate(("ada", "eve", "joe"), start=1):
        made.note(name, now_s=float(now_s))
    assert all(made.has_others(name, now_s=3.0) for name in ("ada", "eve", "joe"))
    assert made.has_others("joe", now_s=11.9)
    assert not made.has_others("joe", now_s=12.0)
    assert not made.has_others("ada", now_s=13.0)
