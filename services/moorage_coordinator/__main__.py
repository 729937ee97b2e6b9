import sys

from moorage_coordinator.main import main

sys.exit(main())
