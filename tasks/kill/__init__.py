"""Take the steps of the kill switch: what each does, and the Prefect tasks that they are."""
