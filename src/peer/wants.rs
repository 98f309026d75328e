//! What may be wanted to know of a process.

/// A set of facts about a process, or its user, beyond the ids.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Wants(u16);

impl Wants {
    /// None.
    pub const NONE: Self = Self(0);
    /// Where its program lies.
    pub const PATH: Self = Self(1);
    /// The hash of its program.
    pub const SHA256: Self = Self(1 << 1);
    /// Whether it is in no container.
    pub const HOST: Self = Self(1 << 2);
    /// The container it is in.
    pub const CONTAINER: Self = Self(1 << 3);
    /// What the engine knows of that container.
    pub const ENGINE: Self = Self(1 << 4);
    /// The unit of systemd that it belongs to.
    pub const UNIT: Self = Self(1 << 5);
    /// What systemd knows of that unit.
    pub const MANAGER: Self = Self(1 << 6);
    /// The name of its user, whatever it is.
    pub const USER: Self = Self(1 << 7);
    /// The name of its group.
    pub const GROUP: Self = Self(1 << 8);
    /// All there is.
    pub const ALL: Self = Self((1 << 9) - 1);
    /// Both names.
    pub const NAMES: Self = Self::USER.or(Self::GROUP);
    /// All about its program.
    pub const PROGRAM: Self = Self::PATH.or(Self::SHA256);
    /// All that its cgroup tells by itself.
    pub const PLACE: Self = Self::HOST.or(Self::CONTAINER).or(Self::UNIT);
    /// All that its cgroup tells or leads to.
    pub const OF_CGROUP: Self = Self::PLACE.or(Self::ENGINE).or(Self::MANAGER);

    /// Those of both.
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those that are in both.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Those that are not in the other.
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// What they are about, in words.
    pub fn names(self) -> &'static str {
        if self.meets(Self::ENGINE) {
            "what the engine knows of the container"
        } else if self.meets(Self::MANAGER) {
            "what systemd knows of the unit"
        } else if self.meets(Self::PLACE) {
            "container, unit and namespaces"
        } else if !self.meets(Self::SHA256) {
            "the path of the program"
        } else if !self.meets(Self::PATH) {
            "the hash of the program"
        } else {
            "path and hash of the program"
        }
    }

    /// Whether at least one is in both.
    pub const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}
