import sys

from moorage_cleaner.main import main

sys.exit(main())
