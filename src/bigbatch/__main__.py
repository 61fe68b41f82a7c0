"""`python -m bigbatch` is `bigbatch`."""

from bigbatch.cli import main

if __name__ == "__main__":
    main()
