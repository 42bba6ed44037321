import os

os.environ["HF_HUB_OFFLINE"] = "1"  # models and data are made in the tests
