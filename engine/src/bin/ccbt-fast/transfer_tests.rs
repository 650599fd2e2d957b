use super::*;

const MINUTE: Goal = Goal { time: Some(Duration::from_secs(60)), ratio: None };

fn download() -> Kind {
    Kind::Download { move_completed: None }
}

fn checked(good: u32) -> TorrentEvent {
    TorrentEvent::Checked { good, total: 10 }
}

#[test]
fn a_seed_of_which_some_is_known_seeds_and_one_of_nothing_fails() {
    let now = Instant::now();
    let course = || Course::new(Kind::Seed, Goal { time: None, ratio: None }, now);
    let mut some = Course { has_some: true, ..course() };
    assert!(some.note_event(&TorrentEvent::Finished, now).expect("there is something to seed"));
    assert!(!some.note_event(&TorrentEvent::Finished, now).expect("it seeds already"));
    assert!(course().note_event(&TorrentEvent::Finished, now).is_err());
}

#[test]
fn a_download_ends_when_it_is_finished() {
    let now = Instant::now();
    let mut course = Course::new(download(), Goal::default(), now);
    assert!(!course.note_event(&checked(0), now).unwrap() && !course.is_done(now));
    assert!(!course.note_event(&TorrentEvent::Finished, now).unwrap());
    assert!(course.is_done(now));
}

#[test]
fn a_download_seeds_until_the_goal() {
    let now = Instant::now();
    let mut course = Course::new(download(), MINUTE, now);
    assert!(course.note_event(&TorrentEvent::Finished, now).unwrap(), "seeding begins");
    assert!(!course.note_event(&TorrentEvent::Finished, now).unwrap(), "and begins once");
    assert!(!course.is_done(now + Duration::from_secs(59)));
    assert!(course.is_done(now + Duration::from_secs(60)));
    assert!(course.interrupted(2).is_ok(), "it is finished");
}

#[test]
fn zero_minutes_are_no_seeding() {
    let now = Instant::now();
    let goal = Goal { time: Some(Duration::ZERO), ratio: None };
    let mut course = Course::new(download(), goal, now);
    assert!(!course.note_event(&TorrentEvent::Finished, now).unwrap(), "no seeding is told");
    assert!(course.is_done(now));
}

#[test]
fn a_seed_goes_on_until_the_goal_or_for_ever() {
    let now = Instant::now();
    let hours = now + Duration::from_secs(1 << 20);
    let mut course = Course::new(Kind::Seed, Goal::default(), now);
    assert!(course.note_event(&checked(3), now).unwrap());
    assert!(!course.is_done(hours));
    let mut course = Course::new(Kind::Seed, Goal { time: None, ratio: Some(2.0) }, now);
    assert!(!course.is_done(hours), "not before the check");
    course.note_event(&checked(10), now).unwrap();
    (course.uploaded, course.size) = (199, 100);
    assert!(!course.is_done(hours));
    course.uploaded = 200;
    assert!(course.is_done(now));
}

#[test]
fn a_seed_of_some_pieces_never_says_finished() {
    let now = Instant::now();
    let mut course = Course::new(Kind::Seed, Goal::default(), now);
    course.note_event(&checked(3), now).unwrap();
    assert!(!course.is_true(&TorrentEvent::Finished) && course.is_true(&TorrentEvent::Recovered));
    assert!(!course.note_event(&TorrentEvent::Finished, now).unwrap(), "seeding has begun already");
    let mut whole = Course::new(Kind::Seed, Goal::default(), now);
    whole.note_event(&checked(10), now).unwrap();
    assert!(whole.is_true(&TorrentEvent::Finished));
    let mut nothing_there = Course::new(Kind::Seed, Goal::default(), now);
    let outcome = nothing_there.note_event(&TorrentEvent::Finished, now);
    assert!(matches!(outcome, Err(Failure::NothingToSeed)));
}

#[test]
fn failures_end_it_and_retries_do_not() {
    let now = Instant::now();
    let mut course = Course::new(download(), Goal::default(), now);
    let failed = |retry| TorrentEvent::Failed { message: "disk full".into(), retry };
    assert!(!course.note_event(&failed(true), now).unwrap());
    assert!(
        matches!(course.note_event(&failed(false), now), Err(Failure::Torrent(text)) if text == "disk full")
    );
    let mut seed = Course::new(Kind::Seed, Goal::default(), now);
    assert!(matches!(seed.note_event(&checked(0), now), Err(Failure::NothingToSeed)));
}

#[test]
fn a_signal_fails_only_an_unfinished_download() {
    let now = Instant::now();
    assert!(Course::new(Kind::Seed, Goal::default(), now).interrupted(15).is_ok());
    let unfinished = Course::new(download(), MINUTE, now).interrupted(15);
    assert!(matches!(unfinished, Err(Failure::Interrupted(15))));
}

#[test]
fn what_is_finished_moves_once_and_only_then_counts_as_done() {
    let now = Instant::now();
    let kind = || Kind::Download { move_completed: Some("done".into()) };
    let moved = TorrentEvent::Moved { root: "done".into(), left: Vec::new() };
    for goal in [Goal::default(), MINUTE] {
        let mut course = Course::new(kind(), goal, now);
        assert_eq!(course.begin_move(), None);
        assert!(!course.note_event(&TorrentEvent::Finished, now).unwrap(), "seeding begins after the move");
        assert!(!course.is_done(now));
        assert_eq!(course.begin_move(), Some("done".into()));
        assert_eq!(course.begin_move(), None);
        assert!(!course.is_done(now) && course.interrupted(2).is_err());
        assert_eq!(course.note_event(&moved, now).unwrap(), !goal.is_none());
        assert_eq!(course.is_done(now), goal.is_none());
        assert!(course.interrupted(2).is_ok());
    }
    let mut course = Course::new(kind(), Goal::default(), now);
    course.note_event(&TorrentEvent::Finished, now).unwrap();
    let failed = TorrentEvent::MoveFailed { message: "no room".into() };
    assert!(
        matches!(course.note_event(&failed, now), Err(Failure::Torrent(message)) if message == "no room")
    );
}
