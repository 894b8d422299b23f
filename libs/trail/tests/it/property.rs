//! The store against a list, on made-up worlds.

use std::sync::Arc;

use binlog::{LogPos, Sink};
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestRunner};
use trail::{Directory, Error, FileKind, Filter, Folder, Interval, Memory, Options, Writer};

use crate::{
    fixture::{feed, feed_part, found, reader_in, start_at, verified_in},
    model::{Item, Model, Then, World, world},
};

/// Runs `test` on the same `cases` worlds every time.
fn on_worlds(cases: u32, seed: u64, test: impl Fn(World) -> Result<(), TestCaseError>) {
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 400,
        rng_seed: RngSeed::Fixed(seed),
        ..Config::default()
    };
    let result = TestRunner::new(config).run(&world(), test);
    if let Err(e) = result {
        panic!("{e}");
    }
}

fn options(world: &World) -> Options {
    Options {
        tail_bytes_max: world.tail_bytes_max,
        chunk_bytes_max: world.chunk_bytes_max,
        buffer_bytes_max: 500,
        ..Options::default()
    }
}

/// Folders of every kind, empty, and what the directory among them must outlive.
fn folders() -> (tempfile::TempDir, [Arc<dyn Folder>; 2]) {
    let dir = tempfile::tempdir().unwrap();
    let directory = Arc::new(Directory::new(dir.path()));
    (dir, [directory, Arc::new(Memory::default())])
}

/// Reads the world's log into a store as its plan says. Some of it is sealed then, and some is not.
fn play(world: &World, folder: &Arc<dyn Folder>) -> Result<Writer, Error> {
    let options = options(world);
    let mut writer = Writer::open_in(Arc::clone(folder), options)?;
    for stretch in &world.plan {
        let log = &world.logs[stretch.epoch as usize];
        writer.start(start_at(stretch.epoch, log[stretch.from].at()))?;
        for item in &log[stretch.from..stretch.to] {
            match item {
                Item::Txn(txn) => feed(&mut writer, txn)?,
                Item::Event { end, .. } => writer.position(end)?,
            }
        }
        if let (true, Some(Item::Txn(txn))) = (stretch.torn, log.get(stretch.to)) {
            feed_part(&mut writer, txn, false)?;
        }
        match stretch.then {
            Then::Nothing => {}
            Then::Sync => drop(writer.sync()?),
            Then::Reopen => {
                writer.sync()?;
                drop(writer);
                writer = Writer::open_in(Arc::clone(folder), options)?;
            }
        }
    }
    writer.sync()?;
    Ok(writer)
}

fn assert_same_answers(folder: &Arc<dyn Folder>, model: &Model, filters: &[Filter]) {
    let reader = reader_in(folder);
    assert_eq!(found(&reader, &Filter::default()), model.changes);
    for filter in filters {
        assert_eq!(found(&reader, filter), model.find(filter), "{filter:#?}");
        assert_eq!(
            reader.schema_changes(filter).unwrap(),
            model.statements(filter),
            "{filter:#?}"
        );
    }
    assert_eq!(verified_in(folder).changes, model.changes.len() as u64);
}

#[test]
fn every_question_has_the_same_answer_as_of_a_list() {
    on_worlds(60, 1, |world| {
        let (_dir, [directory, memory]) = folders();
        let model = Model::of(&world);
        let writer = play(&world, &directory).unwrap();
        assert_same_answers(&directory, &model, &world.filters);
        writer.finish().unwrap();
        assert_same_answers(&directory, &model, &world.filters);
        play(&world, &memory).unwrap().finish_sealed().unwrap();
        assert_same_answers(&memory, &model, &world.filters);
        assert_eq!(tails(&memory), [""; 0]);
        Ok(())
    });
}

fn tails(folder: &Arc<dyn Folder>) -> Vec<String> {
    let mut names = folder.list().unwrap();
    names.retain(|name| FileKind::of(name) == Some(FileKind::Tail));
    names
}

#[test]
fn coverage_is_what_was_read() {
    on_worlds(100, 2, |world| {
        let (_dir, folders) = folders();
        let model = Model::of(&world);
        for (nth, folder) in (0..).zip(&folders) {
            let writer = play(&world, folder).unwrap();
            let before = reader_in(folder).coverage();
            if nth == 0 {
                writer.finish().unwrap();
            } else {
                writer.finish_sealed().unwrap();
                assert_eq!(reader_in(folder).coverage(), before);
            }
            let coverage = reader_in(folder).coverage();
            let read: Vec<(u32, LogPos, LogPos)> = coverage
                .intervals
                .iter()
                .map(|i| (i.epoch, i.from.clone(), i.to.clone()))
                .collect();
            assert_eq!(read, model.read);
            let count = |of: fn(&Interval) -> u64| coverage.intervals.iter().map(of).sum::<u64>();
            assert_eq!(count(|i| i.transactions), model.transactions);
            assert_eq!(count(|i| i.changes), model.changes.len() as u64);
            assert_eq!(coverage.complete, coverage.gaps.is_empty());
        }
        Ok(())
    });
}
