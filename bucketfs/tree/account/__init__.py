"""All buckets of an account as the directories of one mount.

Which there are (`roster`), what is known of each (`member`), and entering them (`account`).
"""
