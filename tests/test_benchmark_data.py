from programs import run


def test_the_quick_run_prints_its_tables():
    done = run("scripts/benchmark_data.py", "--quick")
    rows = [line.split() for line in done.stdout.splitlines() if line.endswith("x")]
    assert [row[0] for row in rows] == ["SYSU-MM01", "RegDB,", "SYSU-MM01", "RegDB,"]
    for row in rows:
        theirs, ours, ratio = float(row[-3]), float(row[-2]), float(row[-1][:-1])
        assert theirs > 0 and abs(ratio - ours / theirs) < 0.1 + 0.01 * ratio
    of_batches = done.stdout.splitlines()[-1].split()
    assert of_batches[1:4] == ["384", "x", "192"] and all(float(speed) > 0 for speed in of_batches[4:])
