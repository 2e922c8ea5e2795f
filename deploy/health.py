"""Whether the app's server answers: what the container's health check runs.

That the models load and score is checked once, before the app opens; see start.py.
"""

import sys
import urllib.request

ADDRESS = "http://127.0.0.1:8501/_stcore/health"

if __name__ == "__main__":
    try:
        with urllib.request.urlopen(ADDRESS, timeout=5) as answer:
            sys.exit(answer.status != 200)
    except OSError as error:
        sys.exit(f"no answer: {type(error).__name__}")
