"""The documentation site: pages from `docs/`, pages of the repository as they lie, and a reference made from the code.

`python -m infra.docs` writes it to `build/site`; `make docs` does.
"""
