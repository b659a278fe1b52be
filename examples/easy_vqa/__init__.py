"""easy-VQA as three tasks, a worked example of a setting with data of one's own; see README.md."""
