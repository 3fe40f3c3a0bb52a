"""Census-Income (KDD): 199,523 and 99,762 people of the census bureau's surveys of 1994 and 1995.

UCI Machine Learning Repository, "Census-Income (KDD)", 2000, https://doi.org/10.24432/C5N30T. The
two tasks are those of J. Ma et al., "Modeling Task Relationships in Multi-task Learning with
Multi-gate Mixture-of-Experts", 2018, https://doi.org/10.1145/3219819.3220007: `income` (more than
50,000 dollars) and `marital` (never married).

Of the 42 columns, 39 are features: 7 numbers (`age`, `wage_per_hour`, `capital_gains`,
`capital_losses`, `stock_dividends`, `num_employees`, `weeks_worked`) and 32 categories, codes
among them. No features are `income` and `marital_status`, which are the labels, and
`instance_weight`, the number of people that a row stands for; rows are not weighted by it either.
The columns `household_family` and `household_summary` stay, as in the paper, though they tell much
about marriage. The publisher's test rows are the test split; a validation part is to be carved out
of the training rows. Values have leading blanks in the file; they are removed.
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from scalerec.data.public.sets import first_of, need_files
from scalerec.data.raw import RawData
from scalerec.data.schema import Categorical, Feature, Numeric, Schema, Task
from scalerec.data.sources import CsvSource, MappedSource, Source

__all__ = ["COLUMNS", "read_census_income"]

COLUMNS = (
    *("age", "worker_class", "industry_code", "occupation_code", "education", "wage_per_hour"),
    *("enrolled", "marital_status", "industry", "occupation", "race", "hispanic_origin", "sex"),
    *("union_member", "unemployment_reason", "employment", "capital_gains", "capital_losses"),
    *("stock_dividends", "tax_filer", "previous_region", "previous_state", "household_family"),
    *("household_summary", "instance_weight", "migration_msa", "migration_region"),
    *("migration_within_region", "same_house", "previous_sunbelt", "num_employees"),
    *("family_under_18", "father_country", "mother_country", "birth_country", "citizenship"),
    *("self_employed", "veteran_questionnaire", "veteran_benefits", "weeks_worked", "year"),
    "income",
)
MONEY = ("wage_per_hour", "capital_gains", "capital_losses", "stock_dividends")
NUMBERS = ("age", *MONEY, "num_employees", "weeks_worked")
NOT_FEATURES = ("marital_status", "instance_weight", "income")
FILES = {
    "train": ("census_income_1994_1995_train.csv", "census-income.data"),
    "test": ("census_income_1994_1995_test.csv", "census-income.test"),
}
NOTES = (
    "cite: UCI Machine Learning Repository, Census-Income (KDD), 2000",
    "setup: 39 features, tasks income and marital (never married), household columns kept, rows "
    "not weighted; valid is carved from train",
)


def read_census_income(folder: Path) -> RawData:
    """Read Census-Income from a folder with its two files, plain or gzipped.

    Raises:
        DataError: If one of the files is missing.
    """
    paths = {
        part: first_of(folder, *(f"{name}{end}" for name in names for end in ("", ".gz")))
        for part, names in FILES.items()
    }
    need_files(folder, [f"{FILES[part][1]}.gz" for part, path in paths.items() if path is None])
    return RawData(
        name="census-income",
        schema=_schema(),
        splits={part: _stripped(path) for part, path in paths.items() if path is not None},
        notes=NOTES,
    )


def _schema() -> Schema:
    return Schema(
        features=tuple(_feature(name) for name in COLUMNS if name not in NOT_FEATURES),
        tasks=(
            Task(name="income", positive=("50000+.",)),
            Task(name="marital", column="marital_status", positive=("Never married",)),
        ),
        tables={},
    )


def _feature(name: str) -> Feature:
    if name in NUMBERS:
        return Numeric(name=name, transform="log" if name in MONEY else "standard")
    return Categorical(name=name)


def _stripped(path: Path) -> Source:
    def convert(table: pa.RecordBatch) -> pa.RecordBatch:
        return pa.RecordBatch.from_arrays(
            [pc.utf8_trim_whitespace(column) for column in table.columns], names=list(COLUMNS)
        )

    return MappedSource(CsvSource(path, column_names=COLUMNS, quote=""), COLUMNS, convert)
