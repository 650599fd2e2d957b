//! The policy against a model that says the same in plain lists.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

/// The rules of the module's documentation, without a thought for speed: (key, uses) in lists.
#[derive(Default)]
struct Model {
    small: Vec<(u8, u8)>,
    main: Vec<(u8, u8)>,
    ghosts: Vec<u8>,
    ghosts_max: usize,
}

impl Model {
    fn contains(&self, key: u8) -> bool {
        self.small.iter().chain(&self.main).any(|(known, _)| *known == key)
    }

    fn insert(&mut self, key: u8) {
        if let Some(at) = self.ghosts.iter().position(|ghost| *ghost == key) {
            // Its place in the line of ghosts stays taken until it has moved out.
            self.ghosts[at] = u8::MAX;
            self.main.push((key, 0));
        } else {
            self.small.push((key, 0));
        }
    }

    fn used(&mut self, key: u8) {
        let all = self.small.iter_mut().chain(&mut self.main);
        all.filter(|(known, _)| *known == key).for_each(|(_, uses)| *uses = (*uses + 1).min(USES_MAX));
    }

    fn evict(&mut self, held: &HashSet<u8>) -> Option<(u8, bool)> {
        let small_first = self.small.len() as u64 * SMALL_PART >= (self.small.len() + self.main.len()) as u64;
        if small_first {
            self.evict_small(held).or_else(|| self.evict_main(held))
        } else {
            self.evict_main(held).or_else(|| self.evict_small(held))
        }
    }

    fn evict_small(&mut self, held: &HashSet<u8>) -> Option<(u8, bool)> {
        let mut looks = 0;
        while looks < self.small.len() {
            let (key, uses) = self.small.remove(0);
            if uses >= USES_TO_STAY {
                self.main.push((key, 0));
            } else if held.contains(&key) {
                self.small.push((key, uses));
                looks += 1;
            } else {
                if uses > 0 {
                    self.ghosts.push(key);
                    if self.ghosts.len() > self.ghosts_max {
                        self.ghosts.remove(0);
                    }
                }
                return Some((key, uses == 0));
            }
        }
        None
    }

    fn evict_main(&mut self, held: &HashSet<u8>) -> Option<(u8, bool)> {
        let mut looks = 0;
        while looks < self.main.len() {
            let (key, uses) = self.main.remove(0);
            if uses > 0 {
                self.main.push((key, uses - 1));
            } else if held.contains(&key) {
                self.main.push((key, 0));
                looks += 1;
            } else {
                return Some((key, false));
            }
        }
        None
    }
}

#[derive(Clone, Debug)]
enum Step {
    Read(u8),
    Use(u8),
    Hold(u8),
    LetGo(u8),
    Evict,
    ForgetEven,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u8..40).prop_map(Step::Read),
        6 => (0u8..40).prop_map(Step::Use),
        1 => (0u8..40).prop_map(Step::Hold),
        2 => (0u8..40).prop_map(Step::LetGo),
        5 => Just(Step::Evict),
        1 => Just(Step::ForgetEven),
    ]
}

proptest! {
    #[test]
    fn does_what_the_plain_rules_say(
        steps in prop::collection::vec(step(), 0..400),
        ghosts_max in 1usize..20,
    ) {
        let mut policy = Policy::new(ghosts_max);
        let mut model = Model { ghosts_max, ..Model::default() };
        let mut held = HashSet::new();
        for step in steps {
            match step {
                Step::Read(key) if !policy.contains(&key) => {
                    policy.insert(key, 1);
                    model.insert(key);
                }
                Step::Read(key) | Step::Use(key) => {
                    policy.used(&key);
                    model.used(key);
                }
                Step::Hold(key) => drop(held.insert(key)),
                Step::LetGo(key) => drop(held.remove(&key)),
                Step::Evict => {
                    let gone = policy.evict(|key| !held.contains(key));
                    prop_assert_eq!(gone.map(|gone| (gone.key, gone.unused)), model.evict(&held));
                    prop_assert!(gone.is_none_or(|gone| !held.contains(&gone.key)));
                }
                Step::ForgetEven => {
                    policy.retain(|key| key % 2 == 1);
                    model.small.retain(|(key, _)| key % 2 == 1);
                    model.main.retain(|(key, _)| key % 2 == 1);
                    model.ghosts.iter_mut().filter(|key| **key % 2 == 0).for_each(|key| *key = u8::MAX);
                }
            }
            prop_assert_eq!(policy.len(), model.small.len() + model.main.len());
            prop_assert_eq!(policy.weight(), policy.len() as u64);
            prop_assert!((0..40).all(|key| policy.contains(&key) == model.contains(key)));
            prop_assert!(policy.ghosts() <= ghosts_max);
        }
    }
}

#[test]
fn held_entries_are_stepped_over_and_time_is_bounded() {
    let mut policy = Policy::new(10);
    (0..1000u32).for_each(|key| _ = policy.insert(key, 1));
    let mut asked = 0;
    let gone = policy.evict(|_| {
        asked += 1;
        false
    });
    assert_eq!((gone, asked), (None, HELD_MAX));
    assert_eq!(
        policy.evict(|key| *key == 70),
        Some(Evicted { key: 70, unused: true }),
        "they went to the back"
    );
}

#[test]
fn weight_counts_and_not_number() {
    let mut policy = Policy::new(10);
    // Two that stay, of a hundred each, then many light ones.
    for key in 0..2 {
        policy.insert(key, 100);
        for _ in 0..3 {
            policy.used(&key);
        }
    }
    (2..12).for_each(|key| _ = policy.insert(key, 1));
    assert!(
        policy.evict(|_| true).is_some_and(|gone| gone.key == 2),
        "the heavy ones moved to the main queue"
    );
    assert!(policy.evict(|_| true).is_some_and(|gone| gone.key < 2), "9 of 209 are less than a quarter");
}
