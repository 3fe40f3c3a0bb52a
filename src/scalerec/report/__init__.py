"""The page: one self-contained HTML file that says what a bundle is and how good it is."""

from scalerec.report.page import render_page, write_report

__all__ = ["render_page", "write_report"]
