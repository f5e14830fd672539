"""What holds for a ``World`` at every moment, whatever has happened in it."""

from tests import books


def check(world):
    """Check the books and the rows, and what became of every result that was told."""
    if world.connection.total_changes != world.checked:
        books.audit(world.connection)
        _check_files(world)
        _check_attempts(world)
        world.checked = world.connection.total_changes
    _check_payments(world)
    _check_late_results(world)


def _check_payments(world):
    """Nothing is paid twice, and nothing is had for nothing."""
    charged, reserved = {}, {}
    for sums in world.all(
        "SELECT job_id, idx, SUM(kind = 'charge') - SUM(kind = 'return' AND reserved = 0) AS charged, "
        "SUM(kind = 'reserve') - SUM(reserved < 0) AS reserved FROM ledger "
        "WHERE job_id IS NOT NULL GROUP BY 1, 2"
    ):
        place = sums["job_id"], sums["idx"]
        charged[place], reserved[place] = sums["charged"], sums["reserved"]
    for picture in world.all("SELECT job_id, idx FROM pictures"):
        assert charged[picture["job_id"], picture["idx"]] >= 1, "a picture for nothing"
    for place, paid in charged.items():
        posts = [post for post in world.posts if post.place == place and not post.is_refused]
        assert paid <= len(posts), "paid for what NanoBanana did not take"
        good = sum(post.fate == "ok" and not post.is_forgotten for post in posts)
        assert place in world.forgiven or good <= paid + reserved[place], "bought and never paid"


def _check_files(world):
    """Every picture that is stored is somebody's, and every row has its own."""
    keys = [row["key"] for row in world.all("SELECT key FROM pictures UNION ALL SELECT key FROM unclaimed")]
    assert sorted(keys) == sorted(world.files), "a file without a row, or a row without one"


def _check_attempts(world):
    """An attempt is open exactly as long as it is its job's and the job is."""
    for row in world.all(
        "SELECT attempts.*, jobs.attempt, jobs.status AS job_status, jobs.error_code AS job_error, "
        "jobs.completed_at FROM attempts JOIN jobs ON jobs.id = attempts.job_id"
    ):
        is_open = row["number"] == row["attempt"] and row["completed_at"] is None
        assert (row["ended_at"] is None) is is_open
        assert (row["job_status"] in {"COMPLETED", "FAILED", "CANCELED"}) is (row["completed_at"] is not None)
        if row["number"] == row["attempt"] and not is_open:
            assert (row["status"], row["error_code"]) == (row["job_status"], row["job_error"])


def _check_late_results(world):
    """What was told of a task that had ended is there for its owner, or on its way, or there is a reason."""
    told = [post for post in world.posts if post.is_late and post.is_lost is None]
    if not told:
        return
    kept = set(world.files.values())
    coming = world.all("SELECT step, task_id, candidates FROM tasks WHERE step IN ('ask', 'finish')")
    for post in told:
        addresses = world.addresses(post)
        is_coming = any(
            row["task_id"] == post.task_id or any(url in (row["candidates"] or "") for url in addresses)
            for row in coming
        )
        assert is_coming or kept & addresses, "a result that was told is nowhere"
