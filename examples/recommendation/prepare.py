"""MovieLens 100K (100,000 ratings of 1,682 films by 943 people, 1997 to 1998), out of the wheel of `recbole`."""

import csv
import subprocess
import sys
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
DATA = HERE / "data"
FOLDER = "recbole/dataset_example/ml-100k/ml-100k"


def rows(wheel: zipfile.ZipFile, name: str) -> list[dict[str, str]]:
    """A file of the wheel; its columns are called `user_id:token` and the like."""
    lines = wheel.read(f"{FOLDER}.{name}").decode().splitlines()
    names = [column.partition(":")[0] for column in lines[0].split("\t")]
    return [dict(zip(names, line.split("\t"), strict=True)) for line in lines[1:]]


if __name__ == "__main__":
    DATA.mkdir(exist_ok=True)
    fetch = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "recbole==1.2.1",
        "-d",
        str(DATA),
    ]
    subprocess.run(fetch, check=True)
    with zipfile.ZipFile(next(DATA.glob("recbole-*.whl"))) as wheel:
        titles = {
            row["item_id"]: f"{row['movie_title']} ({row['release_year']})" for row in rows(wheel, "item")
        }
        events = rows(wheel, "inter")
    with (DATA / "events.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["user", "item", "time", "title"])
        for row in events:
            writer.writerow([row["user_id"], row["item_id"], row["timestamp"], titles[row["item_id"]]])
    print(f"{len(events):,} events")
    split = ["bigbatch", "split", "events.csv", ".", "--by", "last", "--column", "user", "--time", "time"]
    print("next:", " ".join(split), "&& bigbatch train ../recipe.yaml")
