/* Callers that are not whom they seem to be. `impostor ROLE COUNT ...` plays one role so often, and
 * tells how many tries there were and which identities came back.
 *
 * In the environment: SOCKET, CALL (the bytes of a call in hexadecimal), TRUSTED (a copy of this
 * program that an entry names). */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/sched.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { HELLO = 33, PATIENCE = 30000, ATTACKER = 1003 };

static unsigned char call[4096];
static size_t call_length;
static long tries;

static void die(const char *what) {
    perror(what);
    _exit(9);
}

static long must(long result, const char *what) {
    if (result < 0)
        die(what);
    return result;
}

static void read_call(void) {
    const char *hex = getenv("CALL");
    for (; hex && hex[0] && hex[1]; hex += 2)
        sscanf(hex, "%2hhx", &call[call_length++]);
}

/* The identities that came back. */
static struct { char name[32]; long count; } won[8];

static void count_identities(const unsigned char *bytes, size_t length) {
    static const char start[] = "spiffe://example.org/";
    const unsigned char *end = bytes + length, *at = bytes;
    while ((at = memmem(at, (size_t)(end - at), start, sizeof start - 1))) {
        char name[32] = "";
        size_t n = 0;
        at += sizeof start - 1;
        while (at < end && n < sizeof name - 1 && (*at == '-' || (*at >= 'a' && *at <= 'z')))
            name[n++] = (char)*at++;
        for (size_t i = 0; i < 8; i++) {
            if (!won[i].count || !strcmp(won[i].name, name)) {
                strcpy(won[i].name, name);
                won[i].count++;
                break;
            }
        }
    }
}

static void tell(void) {
    printf("AS %u\nRESULT tries=%ld", geteuid(), tries);
    for (size_t i = 0; i < 8 && won[i].count; i++)
        printf(" %s=%ld", won[i].name, won[i].count);
    printf("\n");
    fflush(stdout);
}

static void dial(int fd) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path, getenv("SOCKET"), sizeof address.sun_path - 1);
    must(connect(fd, (struct sockaddr *)&address, sizeof address), "connect");
}

static int dialled(void) {
    int fd = (int)must(socket(AF_UNIX, SOCK_STREAM, 0), "socket");
    dial(fd);
    return fd;
}

/* Says a part of the call. Whoever is refused may find the connection closed. */
static void say(int fd, size_t from, size_t to) {
    ssize_t ignored = write(fd, call + from, to - from);
    (void)ignored;
}

static void wait_readable(int fd) {
    struct pollfd polled = {.fd = fd, .events = POLLIN};
    if (must(poll(&polled, 1, PATIENCE), "poll") == 0)
        die("no answer");
}

/* Says hello and waits for that of the agent: it has accepted. */
static void be_accepted(int fd) {
    say(fd, 0, HELLO);
    wait_readable(fd);
}

/* Whether stream 1 has ended, or the connection. */
static int is_over(const unsigned char *at, size_t left) {
    while (left >= 9) {
        size_t size = 9 + ((size_t)at[0] << 16 | (size_t)at[1] << 8 | at[2]);
        int ends = (at[3] <= 1 && at[4] & 1) || at[3] == 3;
        if (left < size)
            return 0;
        if ((at[8] == 1 && ends) || at[3] == 7)
            return 1;
        at += size;
        left -= size;
    }
    return 0;
}

/* Reads the answer to its end and counts what came. */
static void hear(int fd) {
    static unsigned char got[1 << 16];
    size_t length = 0;
    while (!is_over(got, length)) {
        wait_readable(fd);
        ssize_t n = read(fd, got + length, sizeof got - length);
        if (n <= 0)
            break;
        length += (size_t)n;
    }
    count_identities(got, length);
    tries++;
}

static void become(unsigned user) {
    must(setgroups(0, NULL), "setgroups");
    must(setresgid(user, user, user), "setresgid");
    must(setresuid(user, user, user), "setresuid");
}

/* Becomes a program that says the rest of the call, from `from`, and stays while `life` is open. */
static void turn_into(const char *program, int fd, int life, size_t from) {
    char texts[3][16];
    snprintf(texts[0], 16, "%d", fd);
    snprintf(texts[1], 16, "%d", life);
    snprintf(texts[2], 16, "%zu", from);
    execl(program, program, "rest", "1", texts[0], texts[1], texts[2], NULL);
    die("exec");
}

static void rest(int fd, int life, size_t from) {
    char byte;
    say(fd, from, call_length);
    while (read(life, &byte, 1) > 0)
        ;
    _exit(0);
}

/* A process that connects and changes, and this one, which holds its connection. */
struct pair { int fd, gone[2], life[2]; };

static struct pair open_pair(void) {
    struct pair pair;
    pair.fd = (int)must(socket(AF_UNIX, SOCK_STREAM, 0), "socket");
    must(pipe2(pair.gone, O_CLOEXEC), "pipe");
    must(pipe(pair.life), "pipe");
    must(fcntl(pair.life[1], F_SETFD, FD_CLOEXEC), "fcntl");
    return pair;
}

/* Waits until the other has become what it becomes, and hears what is answered. */
static void close_pair(struct pair pair, pid_t pid, size_t said) {
    char byte;
    int status;
    close(pair.gone[1]);
    close(pair.life[0]);
    while (read(pair.gone[0], &byte, 1) > 0)
        ;
    say(pair.fd, said, call_length);
    hear(pair.fd);
    close(pair.life[1]);
    close(pair.gone[0]);
    close(pair.fd);
    must(waitpid(pid, &status, 0), "waitpid");
    if (status)
        die("the other failed");
}

enum form { OWN_REQUEST, REQUEST_WHEN_ACCEPTED, HELLO_WHEN_ACCEPTED, NOTHING };

static void change(const char *program, enum form form) {
    struct pair pair = open_pair();
    pid_t pid = (pid_t)must(fork(), "fork");
    if (pid == 0) {
        size_t said = form == NOTHING ? 0 : form == HELLO_WHEN_ACCEPTED ? HELLO : call_length;
        dial(pair.fd);
        if (form == OWN_REQUEST)
            say(pair.fd, 0, call_length);
        else if (form != NOTHING)
            be_accepted(pair.fd);
        if (form == REQUEST_WHEN_ACCEPTED)
            say(pair.fd, HELLO, call_length);
        turn_into(program, pair.fd, pair.life[0], said);
    }
    close_pair(pair, pid, call_length);
}

/* R1, with so many connections before it that the agent has to accept first. */
static void own_request(long count, int before) {
    int crowd[200];
    while (tries < count) {
        for (int i = 0; i < before; i++)
            crowd[i] = dialled();
        change(getenv("TRUSTED"), OWN_REQUEST);
        for (int i = 0; i < before; i++)
            close(crowd[i]);
    }
}

static pid_t clone_as(pid_t wanted) {
    struct clone_args arguments = {
        .exit_signal = SIGCHLD, .set_tid = (uintptr_t)&wanted, .set_tid_size = 1};
    return (pid_t)syscall(SYS_clone3, &arguments, sizeof arguments);
}

static long start_time(pid_t pid) {
    char path[32], text[1024] = "";
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    int fd = (int)must(open(path, O_RDONLY | O_CLOEXEC), path);
    must(read(fd, text, sizeof text - 1), path);
    close(fd);
    char *at = strrchr(text, ')');
    for (int field = 2; at && field < 22; field++)
        at = strchr(at + 1, ' ');
    return at ? atol(at) : -1;
}

/* One connects and ends; the trusted program gets its number. */
static void reuse(long count) {
    long same_tick = 0;
    pid_t number = 0;
    while (tries < count) {
        if (!number) {
            number = (pid_t)must(fork(), "fork");
            if (number == 0)
                _exit(0);
            must(waitpid(number, NULL, 0), "waitpid");
        }
        int accepted = tries & 1, by_holder = tries & 2;
        size_t said = accepted ? HELLO : 0;
        struct pair pair = open_pair();
        pid_t first = clone_as(number), second = -1;
        if (first == 0) {
            become(ATTACKER);
            dial(pair.fd);
            if (accepted)
                be_accepted(pair.fd);
            _exit(0);
        }
        if (first > 0) {
            siginfo_t info;
            must(waitid(P_PID, (id_t)number, &info, WEXITED | WNOWAIT), "waitid");
            long before = start_time(number);
            must(waitpid(number, NULL, 0), "waitpid");
            second = clone_as(number);
            if (second == 0) {
                become(ATTACKER);
                turn_into(getenv("TRUSTED"), pair.fd, pair.life[0],
                          by_holder ? call_length : said);
            }
            if (second > 0)
                same_tick += start_time(number) == before;
        }
        if (second > 0) {
            close_pair(pair, second, by_holder ? said : call_length);
            continue;
        }
        /* Somebody else has the number now. */
        if (errno != EEXIST)
            die("clone3 with set_tid");
        number = 0;
        close(pair.fd);
        for (int i = 0; i < 2; i++)
            close(pair.gone[i]), close(pair.life[i]);
    }
    printf("SAME TICK %ld\n", same_tick);
}

/* A child writes to the connection of its parent: all, the end or the beginning. */
static void held(long count) {
    while (tries < count) {
        int fd = dialled();
        size_t from = tries % 3 == 1 ? HELLO : 0, to = tries % 3 == 2 ? HELLO : call_length;
        say(fd, 0, from);
        pid_t pid = (pid_t)must(fork(), "fork");
        if (pid == 0) {
            say(fd, from, to);
            _exit(0);
        }
        must(waitpid(pid, NULL, 0), "waitpid");
        say(fd, to, call_length);
        hear(fd);
        close(fd);
    }
}

/* Connects, and sends the connection away. */
static void lend(long count, int way) {
    for (long i = 0; i < count; i++) {
        int fd = dialled();
        size_t said = i & 1 ? HELLO : 0;
        say(fd, 0, said);
        char room[CMSG_SPACE(sizeof fd)] = "", byte;
        struct iovec piece = {&said, sizeof said};
        struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = room,
                                 .msg_controllen = sizeof room};
        struct cmsghdr *control = CMSG_FIRSTHDR(&message);
        control->cmsg_level = SOL_SOCKET;
        control->cmsg_type = SCM_RIGHTS;
        control->cmsg_len = CMSG_LEN(sizeof fd);
        memcpy(CMSG_DATA(control), &fd, sizeof fd);
        must(sendmsg(way, &message, 0), "sendmsg");
        if (read(way, &byte, 1) != 1)
            die("the borrower is gone");
        close(fd);
    }
}

/* Calls over connections of somebody else. */
static void borrow(long count, int way) {
    while (tries < count) {
        size_t said;
        char room[CMSG_SPACE(sizeof(int))];
        struct iovec piece = {&said, sizeof said};
        struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = room,
                                 .msg_controllen = sizeof room};
        if (must(recvmsg(way, &message, 0), "recvmsg") == 0)
            die("the lender is gone");
        int fd;
        memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
        say(fd, said, call_length);
        hear(fd);
        close(fd);
        must(write(way, "", 1), "write");
    }
}

static pid_t start_as(const char *user, const char *program, const char *role, const char *count,
                      int way, int other) {
    pid_t pid = (pid_t)must(fork(), "fork");
    if (pid == 0) {
        char text[16];
        snprintf(text, sizeof text, "%d", way);
        close(other);
        become((unsigned)atoi(user));
        execl(program, program, role, count, text, NULL);
        die("exec");
    }
    return pid;
}

/* lender's user, lender's program, borrower's user, borrower's program */
static void pass(const char *count, char **who) {
    int ways[2], status;
    must(socketpair(AF_UNIX, SOCK_STREAM, 0, ways), "socketpair");
    start_as(who[0], who[1], "lend", count, ways[0], ways[1]);
    start_as(who[2], who[3], "borrow", count, ways[1], ways[0]);
    close(ways[0]), close(ways[1]);
    while (wait(&status) > 0)
        if (status)
            _exit(8);
    _exit(0);
}

/* The main thread ends, and another one calls: before it was accepted, or after. */
static int leader_waits[2], accepted_before;

static void *outlive(void *nothing) {
    int fd = (int)must(socket(AF_UNIX, SOCK_STREAM, 0), "socket");
    char path[64], text[256];
    if (accepted_before)
        dial(fd), be_accepted(fd);
    must(write(leader_waits[1], "", 1), "write");
    snprintf(path, sizeof path, "/proc/%d/task/%d/stat", getpid(), getpid());
    do {
        int stat = (int)must(open(path, O_RDONLY), path);
        text[must(read(stat, text, sizeof text - 1), path)] = 0;
        close(stat);
    } while (!strstr(text, ") Z "));
    if (!accepted_before)
        dial(fd);
    say(fd, accepted_before ? HELLO : 0, call_length);
    hear(fd);
    tell();
    _exit(0);
    return nothing;
}

static void leader(long form) {
    pthread_t thread;
    char byte;
    accepted_before = form == 1;
    must(pipe(leader_waits), "pipe");
    must(-pthread_create(&thread, NULL, outlive, NULL), "pthread_create");
    must(read(leader_waits[0], &byte, 1), "read");
    syscall(SYS_exit, 0);
}

/* The messages on stream 1. */
static int messages(const unsigned char *at, size_t left) {
    int count = 0;
    while (left >= 9) {
        size_t size = 9 + ((size_t)at[0] << 16 | (size_t)at[1] << 8 | at[2]);
        if (left < size)
            break;
        count += at[3] == 0 && at[8] == 1 && size > 9;
        at += size;
        left -= size;
    }
    return count;
}

/* Opens a stream and changes when it has the first message: into `program`, to nothing where that is
 * empty, not at all where it is "-". Tells whether there are more messages. */
static void stream(const char *program) {
    static unsigned char got[1 << 16];
    size_t length = 0;
    int change[2], changed = 0;
    struct pair pair = open_pair();
    must(pipe2(change, O_CLOEXEC), "pipe");
    pid_t pid = (pid_t)must(fork(), "fork");
    if (pid == 0) {
        char byte;
        dial(pair.fd);
        say(pair.fd, 0, call_length);
        close(change[1]);
        must(read(change[0], &byte, 1), "read");
        if (!*program)
            _exit(0);
        if (*program != '-')
            turn_into(program, pair.fd, pair.life[0], call_length);
        close(pair.gone[1]);
        close(pair.life[1]);
        rest(pair.fd, pair.life[0], call_length);
    }
    close(pair.life[0]);
    close(pair.gone[1]);
    while (!is_over(got, length) && messages(got, length) < 2) {
        struct pollfd polled = {.fd = pair.fd, .events = POLLIN};
        /* Not connected yet. */
        if (must(poll(&polled, 1, PATIENCE), "poll") && polled.revents & POLLHUP && !length) {
            usleep(1000);
            continue;
        }
        ssize_t n = read(pair.fd, got + length, sizeof got - length);
        if (n <= 0)
            break;
        length += (size_t)n;
        if (!changed && messages(got, length) == 1) {
            char byte;
            changed = 1;
            close(change[1]);
            while (read(pair.gone[0], &byte, 1) > 0)
                ;
            printf("CHANGED\n");
            fflush(stdout);
        }
    }
    printf("MESSAGES %d\n", messages(got, length));
    tries++;
    kill(pid, SIGKILL);
}

/* Has a tracer from the start. */
static void traced(void) {
    int status;
    pid_t pid = (pid_t)must(fork(), "fork");
    if (pid == 0) {
        must(ptrace(PTRACE_TRACEME, 0, 0, 0), "ptrace");
        execl(getenv("TRUSTED"), "traced", "call", "1", NULL);
        die("exec");
    }
    while (waitpid(pid, &status, 0) > 0 && WIFSTOPPED(status))
        must(ptrace(PTRACE_CONT, pid, 0, 0), "ptrace");
    _exit(WEXITSTATUS(status));
}

/* Runs from a file that has never had a name. */
static void memory(void) {
    static char bytes[1 << 16];
    ssize_t n;
    int fd = (int)must(memfd_create("trusted", 0), "memfd_create");
    int own = (int)must(open("/proc/self/exe", O_RDONLY | O_CLOEXEC), "open");
    while ((n = read(own, bytes, sizeof bytes)) > 0)
        must(write(fd, bytes, (size_t)n), "write");
    char *arguments[] = {"memory", "call", "1", NULL};
    fexecve(fd, arguments, environ);
    die("fexecve");
}

int main(int argc, char **argv) {
    signal(SIGPIPE, SIG_IGN);
    read_call();
    const char *role = argc > 2 ? argv[1] : "";
    long count = argc > 2 ? atol(argv[2]) : 0;
    int number = argc > 3 ? atoi(argv[3]) : 0;
    gid_t group = 5555;
    if (!strcmp(role, "call")) {
        /* When the standard input ends. */
        char byte;
        while (number && read(0, &byte, 1) > 0)
            ;
        for (; tries < count;) {
            int fd = dialled();
            say(fd, 0, call_length);
            hear(fd);
            close(fd);
        }
    } else if (!strcmp(role, "rest"))
        rest(number, atoi(argv[4]), (size_t)atol(argv[5]));
    else if (!strcmp(role, "own-request"))
        own_request(count, number);
    else if (!strcmp(role, "exec-when-accepted"))
        while (tries < count)
            change(getenv("TRUSTED"), tries & 1 ? HELLO_WHEN_ACCEPTED : REQUEST_WHEN_ACCEPTED);
    else if (!strcmp(role, "exec"))
        while (tries < count)
            change(argv[3], (enum form)(tries & 3));
    else if (!strcmp(role, "reuse"))
        reuse(count);
    else if (!strcmp(role, "held"))
        held(count);
    else if (!strcmp(role, "pass"))
        pass(argv[2], argv + 3);
    else if (!strcmp(role, "lend")) {
        lend(count, number);
        return 0;
    } else if (!strcmp(role, "borrow"))
        borrow(count, number);
    else if (!strcmp(role, "leader"))
        leader(count);
    else if (!strcmp(role, "stream"))
        stream(argv[3]);
    else if (!strcmp(role, "traced"))
        traced();
    else if (!strcmp(role, "memory"))
        memory();
    else if (!strcmp(role, "drop"))
        while (tries < count) {
            int fd = dialled(), accepted = tries & 1;
            if (accepted)
                be_accepted(fd);
            /* Its next try needs root again. */
            must(setresuid(ATTACKER, ATTACKER, 0), "setresuid");
            say(fd, accepted ? HELLO : 0, call_length);
            hear(fd);
            close(fd);
            must(setresuid(0, 0, 0), "setresuid");
        }
    else if (!strcmp(role, "groups")) {
        /* In the group when it connects, or when it calls. */
        while (tries < count) {
            int accepted = tries & 1;
            must(setgroups(number ? 1 : 0, &group), "setgroups");
            int fd = dialled();
            if (accepted)
                be_accepted(fd);
            must(setgroups(number ? 0 : 1, &group), "setgroups");
            say(fd, accepted ? HELLO : 0, call_length);
            hear(fd);
            close(fd);
        }
    } else {
        fprintf(stderr, "no such role\n");
        return 2;
    }
    tell();
    return 0;
}
