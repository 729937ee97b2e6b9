import sys

from moorage_worker.main import main

sys.exit(main(sys.argv[1:]))
