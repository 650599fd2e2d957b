use proptest::prelude::*;

use super::*;

const HASH: InfoHash = InfoHash([7; 20]);

fn have(total: u32, wanted: impl Fn(u32) -> bool) -> Bitfield {
    let mut have = Bitfield::empty(total);
    (0..total).filter(|piece| wanted(*piece)).for_each(|piece| _ = have.insert(PieceIndex(piece)));
    have
}

#[test]
fn a_hundred_thousand_pieces_fit_into_few_cells() {
    let pieces = Pieces::new(HASH, 100, &have(100_000, |piece| piece < 50_001), true);
    assert_eq!((pieces.pieces_total, pieces.pieces_done, pieces.cells.len()), (100_000, 50_001, 100));
    assert_eq!(pieces.cells[..50], [100; 50]);
    assert_eq!((pieces.cells[50], &pieces.cells[51..]), (1, &[0; 49][..]), "one of a thousand is not none");
    let nearly = Pieces::new(HASH, 1, &have(100_000, |piece| piece > 0), true);
    assert_eq!(nearly.cells, [99], "all but one is not all");
}

#[test]
fn the_number_of_cells_is_bounded() {
    let cells = |cells| Cells { cells }.checked().ok();
    assert_eq!((cells(None), cells(Some(1)), cells(Some(4096))), (Some(256), Some(1), Some(4096)));
    assert_eq!((cells(Some(0)), cells(Some(4097))), (None, None));
}

proptest! {
    /// Every piece is in one cell: all cells are full if all pieces are there, and one alone shows in exactly one.
    #[test]
    fn cells_cover_all_pieces_once(total in 1u32..5000, cells in 1u32..4096, one in 0u32..5000) {
        let all = Pieces::new(HASH, cells, &have(total, |_| true), true).cells;
        prop_assert_eq!(all.len() as u32, cells.min(total));
        prop_assert!(all.iter().all(|cell| *cell == 100));
        let single = Pieces::new(HASH, cells, &have(total, |piece| piece == one % total), true).cells;
        prop_assert_eq!(single.iter().filter(|cell| **cell > 0).count(), 1);
    }
}
