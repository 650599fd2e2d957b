//! Who is unchoked: tit-for-tat and its seeding variant.
