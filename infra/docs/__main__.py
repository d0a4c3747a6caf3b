"""`python -m infra.docs`: build the site."""

import sys

from infra.docs.site import BuildFailed, build


def main() -> None:
    try:
        site = build()
        print(
            f"read it: {site / 'index.html'}; with search: {sys.executable} -m http.server --directory {site}"
        )
    except BuildFailed as error:
        sys.exit(f"{error}\nThe pages are in docs/, the reference is made by infra/docs/.")


if __name__ == "__main__":
    main()
