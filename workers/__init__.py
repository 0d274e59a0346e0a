"""arq workers: campaign drives, audit sealing, telemetry, upkeep. Start reading at main.py."""
