//! The store against a list, on made-up worlds.

use std::path::Path;

use binlog::{LogPos, Sink};
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestRunner};
use trail::{Error, Filter, Options, Reader, Writer};

use crate::{
    fixture::{feed, feed_part, found, start_at, verified},
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

/// Reads the world's log into a store as its plan says. Some of it is sealed then, and some is not.
fn play(world: &World, dir: &Path) -> Result<Writer, Error> {
    let options = Options {
        tail_bytes_max: world.tail_bytes_max,
        chunk_bytes_max: world.chunk_bytes_max,
        buffer_bytes_max: 500,
        ..Options::default()
    };
    let mut writer = Writer::open(dir, options)?;
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
                writer = Writer::open(dir, options)?;
            }
        }
    }
    writer.sync()?;
    Ok(writer)
}

fn assert_same_answers(dir: &Path, model: &Model, filters: &[Filter]) {
    let reader = Reader::open(dir).unwrap();
    assert_eq!(found(&reader, &Filter::default()), model.changes);
    for filter in filters {
        assert_eq!(found(&reader, filter), model.find(filter), "{filter:#?}");
        assert_eq!(
            reader.schema_changes(filter).unwrap(),
            model.statements(filter),
            "{filter:#?}"
        );
    }
    assert_eq!(verified(dir).changes, model.changes.len() as u64);
}

#[test]
fn every_question_has_the_same_answer_as_of_a_list() {
    on_worlds(60, 1, |world| {
        let dir = tempfile::tempdir().unwrap();
        let writer = play(&world, dir.path()).unwrap();
        let model = Model::of(&world);
        assert_same_answers(dir.path(), &model, &world.filters);
        writer.finish().unwrap();
        assert_same_answers(dir.path(), &model, &world.filters);
        Ok(())
    });
}

#[test]
fn coverage_is_what_was_read() {
    on_worlds(100, 2, |world| {
        let dir = tempfile::tempdir().unwrap();
        play(&world, dir.path()).unwrap().finish().unwrap();
        let model = Model::of(&world);
        let coverage = Reader::open(dir.path()).unwrap().coverage();
        let read: Vec<(u32, LogPos, LogPos)> = coverage
            .intervals
            .iter()
            .map(|i| (i.epoch, i.from.clone(), i.to.clone()))
            .collect();
        assert_eq!(read, model.read);
        assert_eq!(
            coverage.intervals.iter().map(|i| i.transactions).sum::<u64>(),
            model.transactions
        );
        assert_eq!(
            coverage.intervals.iter().map(|i| i.changes).sum::<u64>(),
            model.changes.len() as u64
        );
        assert_eq!(coverage.complete, coverage.gaps.is_empty());
        Ok(())
    });
}
