"use strict";
// One log while it is read, leaf by leaf, of a package or of a field device: numbering, anchors, inputs, outputs.

/** One log while it is read: roots of its beginnings, items, chains. `tell(check, subject, fault)` hears what is wrong. */
class LogWalk {
  constructor(tell, keys) {
    this.tell = tell;
    this.keys = keys;
    this.tree = new Tree();
    this.roots = [this.tree.root()];
    this.places = new Map();
    this.chainKeys = new Map();
    this.events = new Map();
    this.items = new Map();
    this.outputs = new Map();
    this.entries = [];
    this.withheld = 0;
    this.open = [];
    this.isBroken = false;
  }

  /** Reads a leaf's place: numbering, predecessor, anchor, inputs, outputs. Its signatures are the caller's. */
  place(leaf, subject) {
    const { event, hash } = leaf;
    const index = this.entries.length;
    const where = `${subject} ${event.id}`;
    if (!this.isBroken) this.checkPlace(event, where, index);
    // 4.7, what the log alone says
    for (const item of event.outputs) {
      const known = this.outputs.get(item.path);
      this.items.set(item.item, item);
      if (known && !this.isBroken) this.tell("items", `data/${item.path}`, new Fault("trust.item_twice", { found: `${known.item}, ${item.item}` }));
      this.outputs.set(item.path, item);
    }
    const short = { ...event, raw: null, inputs: event.type === "anchored" ? event.inputs : [] };
    this.events.set(event.id, { index, event: short });
    this.enter(hash, short, subject);
  }

  /** Of a log whose leaves before could all be read. */
  checkPlace(event, where, index) {
    // 4.4: an id that begins alike would let one key take up the numbers of another
    const chain = event.keyId.slice(0, 8);
    if (!this.chainKeys.has(chain)) this.chainKeys.set(chain, event.keyId);
    const first = this.chainKeys.get(chain);
    if (first !== event.keyId) this.tell("chains", where, new Fault("trust.chain_shared", { expected: first, found: event.keyId }));
    // 4.4: null stands in the first alone, and 4.1 finds a second first, which has the same event id
    if (event.previous !== null) {
      const before = this.places.get(event.previous.slice(7));
      if (!before) this.tell("chains", where, new Fault("trust.chain_gap", { found: event.previous }));
      else if (before.event && (before.event.keyId !== event.keyId || before.event.seq !== event.seq - 1)) {
        const expected = `E-${event.keyId.slice(0, 8)}-${event.seq - 1}`;
        this.tell("chains", where, new Fault("trust.chain_gap", { expected, found: before.event.id }));
      }
    }
    // 4.5
    if (event.anchor !== null) {
      const { tree_size: size, root } = event.anchor;
      if (size > index || toHex(this.roots[size]) !== root) {
        this.tell("anchors", where, new Fault("trust.anchor_wrong", { found: `${root} (${size})` }));
      }
    }
    // 4.6
    for (const item of event.inputs) {
      const source = this.items.get(item.item);
      const fault = new Fault("trust.input_unknown", { expected: source ? showItem(source) : null, found: showItem(item) });
      // of an event that may be withheld; that it does not come later is asked at the end
      if (this.withheld > 0 && !this.events.has(item.event)) this.open.push({ event: item.event, where, fault });
      else if (!(source && sameItem(source, item))) this.tell("inputs", where, fault);
    }
  }

  /** 4.7: what stands under seal/ is not looked for under data/, so nothing else may hide there. */
  checkFolders({ id, type, outputs }) {
    const name = { packaged: "statement.dsse", exported: "redaction.dsse" }[type] ?? "";
    for (const { path } of outputs) {
      if (path.startsWith("seal/") && path !== `seal/${id}/${name}`) this.tell("items", `data/${path}`, new Fault("trust.item_folder", { found: type }));
    }
  }

  /** A leaf that cannot be read: it has a place, and after it nothing before is known for sure. */
  passUnread(subject) {
    this.isBroken = true;
    this.entries.push({ subject, event: null, hash: null });
    this.roots.push(this.tree.root());
  }

  /** A leaf that is withheld: its hash alone. */
  passOver(hash, subject) {
    this.withheld++;
    this.enter(hash, null, subject);
  }

  enter(hash, event, subject) {
    const key = toHex(hash);
    if (!this.places.has(key)) this.places.set(key, { index: this.entries.length, event });
    this.entries.push({ subject, event, hash });
    this.tree.append(hash);
    this.roots.push(this.tree.root());
  }

  /** 4.6: what was taken for withheld, and then came. */
  settle() {
    for (const { event, where, fault } of this.open) if (this.events.has(event)) this.tell("inputs", where, fault);
  }

  get size() {
    return this.entries.length;
  }
}
