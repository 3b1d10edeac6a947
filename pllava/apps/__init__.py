"""What people and programs talk to: demo, gallery, API, captioning."""
