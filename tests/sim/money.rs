//! What things cost, what is kept of it over a kill, and what must hold of debts.

use crate::{network::*, world::*};
use barrow::engine::{Account, ConnId, EngineConfig, Input, Output};
use barrow::{Multihash, PeerId};
use barrow_wire::{Message, Voucher};
use std::collections::{BTreeMap, BTreeSet};

const PARTS: u128 = 1 << 20;
/// The longest block here.
const BLOCK_BYTES_MAX: u128 = 96 << 10;

/// A node's purse, as its ledger keeps it.
#[derive(Default)]
pub struct Purse {
    pub price: u64,
    pub credit: u64,
    /// What the engine said to keep.
    noted: BTreeMap<PeerId, Account>,
    /// What a kill leaves of that.
    kept: BTreeMap<PeerId, Account>,
    /// Blocks that came and may be paid for, by whom they came from.
    due: BTreeMap<usize, u128>,
    came: BTreeSet<Multihash>,
}

impl World {
    /// Gives everybody a price and a credit.
    pub(super) fn market(&mut self) {
        self.swarm();
        for node in 0..self.nodes.len() {
            let price = [0, 1, 5, 16, 100][self.below(5)];
            let credit = [0, 1, 4, 30][self.below(4)];
            self.nodes[node].purse = Purse { price, credit, ..Purse::default() };
        }
    }

    /// What an engine is told of money at its start.
    pub(super) fn endow(&mut self, node: usize, config: &mut EngineConfig) {
        let purse = &mut self.nodes[node].purse;
        (config.price, config.credit) = (purse.price, purse.credit);
        (config.price_max, config.budget) = (100, 1_000_000);
        purse.noted = purse.kept.clone();
        config.accounts = purse.kept.clone().into_iter().collect();
    }

    pub(super) fn keep(&mut self, node: usize, peer: PeerId, account: Account) {
        let written = self.below(2) == 0;
        let purse = &mut self.nodes[node].purse;
        purse.noted.insert(peer, account);
        if written {
            purse.kept = purse.noted.clone();
        }
    }

    pub(super) fn pay(&mut self, node: usize, output: &Output) -> Message {
        let Output::Pay { conn, payee, sequence, total } = output else { panic!("{output:?}") };
        let seller = self.other_end(*conn);
        assert_eq!(keys()[seller].0, *payee);
        let due = self.nodes[node].purse.due.get(&seller).copied().unwrap_or(0);
        let paid = u128::from(*total) * PARTS;
        assert!(paid <= due, "{node} pays {seller} {paid} for what is worth {due}");
        Message::Payment { voucher: Voucher::sign(&identity(node), *payee, *sequence, *total) }
    }

    /// A block came: now it may be paid for, once.
    pub(super) fn falls_due(&mut self, node: usize, input: &Input) {
        let Input::BlockVerified { conn, hash, len } = input else { return };
        let seller = self.other_end(*conn);
        let price = self.nodes[seller].purse.price;
        let purse = &mut self.nodes[node].purse;
        if purse.came.insert(*hash) {
            *purse.due.entry(seller).or_default() += u128::from(price) * u128::from(*len);
        }
    }

    fn other_end(&mut self, conn: ConnId) -> usize {
        let (link, side) = end_of(conn);
        self.parties[link][1 - side]
    }

    /// Nobody is sent more on credit than it may owe.
    pub(super) fn check_debts(&self, node: usize) {
        let here = &self.nodes[node];
        let Some(engine) = &here.engine else { return };
        for (peer, account) in engine.accounts() {
            let believed = u128::from(account.paid_to_us()) * PARTS / 8;
            let credit = u128::from(here.purse.credit) * PARTS + believed;
            let block = u128::from(here.purse.price) * BLOCK_BYTES_MAX;
            let most = credit.max(PARTS + block);
            let owed = account.owed_to_us();
            assert!(owed <= most, "{node} gives {peer} credit for {owed}, not {most}");
        }
    }

    /// Both sides of a connection agree on what was paid, and nothing whole is owed.
    pub(super) fn settle_debts(&self) {
        for link in self.links.iter().flatten() {
            let [a, b] = [0, 1].map(|side| &link.ends[side]);
            if a.open && b.open && a.established && b.established {
                self.compare(a.node, b.node);
                self.compare(b.node, a.node);
            }
        }
    }

    fn compare(&self, buyer: usize, seller: usize) {
        let account = |node: usize, peer: usize| {
            let engine = self.nodes[node].engine.as_ref().expect("it runs");
            let mut accounts = engine.accounts();
            accounts.find(|(id, _)| **id == keys()[peer].0).map(|(_, account)| account.clone())
        };
        let honest = |n: usize| self.nodes[n].nature == Nature::Honest;
        if !honest(buyer) || !honest(seller) {
            return;
        }
        let bought = account(buyer, seller).unwrap_or_default();
        let sold = account(seller, buyer).unwrap_or_default();
        assert_eq!(bought.paid_by_us(), sold.paid_to_us(), "{buyer} and {seller} paid");
        assert!(bought.owed_by_us() < PARTS, "{buyer} owes {seller} {bought:?}");
    }

    /// Whether anything was sold at all.
    pub(super) fn turnover(&self) -> u64 {
        let purses = self.nodes.iter().flat_map(|node| node.purse.noted.values());
        purses.map(Account::paid_by_us).sum()
    }

    /// A node ends: with all that it noted, or as it was when it last wrote.
    pub(super) fn close_purse(&mut self, node: usize) {
        if self.below(2) == 0 {
            let purse = &mut self.nodes[node].purse;
            purse.kept = purse.noted.clone();
        }
    }

    pub(super) fn is_market(&self) -> bool {
        self.setting == Setting::Market
    }
}
