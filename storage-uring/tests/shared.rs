//! Files with further hard links are read as any other and never changed, whatever is asked.

mod common;

use std::fs;

use ccbt_storage::StorageConfig;
use ccbt_storage::error::ErrorKind;
use ccbt_storage::messages::{OpenMode, Preallocate};
use ccbt_storage::relocate::{MoveProgress, unshare};
use common::*;

#[test]
fn a_shared_file_is_not_written_until_it_has_a_copy_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    for prealloc in [Preallocate::Full, Preallocate::Sparse, Preallocate::None] {
        let root = folder.path().join(format!("{prealloc:?}"));
        let spec = layout(&root, vec![file("t/own", 100_000), file("t/shared", 100_000)], 16_384);
        fs::create_dir_all(root.join("t")).unwrap();
        let library = folder.path().join(format!("library {prealloc:?}"));
        // Shorter than it should be: preallocating it would change the other name as well.
        fs::write(&library, vec![7; 50_000]).unwrap();
        fs::hard_link(&library, root.join("t/shared")).unwrap();

        let mut rig = Rig::new(StorageConfig::default());
        rig.open(1, &spec, prealloc, OpenMode::ReadWrite).unwrap();
        rig.write(1, &spec, 0).unwrap();
        for piece in [6, 7, 12] {
            let error = rig.write(1, &spec, piece).unwrap_err();
            assert_eq!((error.kind(), error.path()), (ErrorKind::Shared, root.join("t/shared").as_path()));
        }
        rig.sync(1).unwrap();
        rig.close(1);
        assert_eq!(fs::read(&library).unwrap(), vec![7; 50_000], "{prealloc:?}");

        assert_eq!(unshare(&spec, &[0, 1], &MoveProgress::default()), Ok(1));
        rig.open(1, &spec, prealloc, OpenMode::ReadWrite).unwrap();
        let order: Vec<u32> = (0..piece_count(&spec)).collect();
        assert!(rig.write_all(1, &spec, &order).is_empty());
        rig.sync(1).unwrap();
        rig.close(1);
        check_files(1, &spec);
        assert_eq!(fs::read(&library).unwrap(), vec![7; 50_000], "{prealloc:?}");
    }
}
