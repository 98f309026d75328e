/* Becomes the command behind "--", for which the kernel does not know what is named before it:
   peerpidfd (SO_PEERPIDFD), info (PIDFD_GET_INFO), openat2, or openat2-old, which old filters refuse. */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ARGUMENT(n) (offsetof(struct seccomp_data, args) + 8 * (n))

static int refuse(unsigned call, unsigned at, unsigned value, unsigned error)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, ARGUMENT(at)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = { sizeof filter / sizeof *filter, filter };
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

/* The fourth argument of openat2 is the size of its third, which is 24. */
static int refuse_openat2(unsigned error)
{
    return refuse(SYS_openat2, 3, 24, error);
}

int main(int argc, char **argv)
{
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return 1;
    for (int i = 1; i < argc; i++) {
        int failed = 0;
        if (strcmp(argv[i], "peerpidfd") == 0)
            failed = refuse(SYS_getsockopt, 2, 77, ENOPROTOOPT);
        else if (strcmp(argv[i], "info") == 0)
            failed = refuse(SYS_ioctl, 1, 0xC040FF0B, ENOTTY);
        else if (strcmp(argv[i], "openat2") == 0)
            failed = refuse_openat2(ENOSYS);
        else if (strcmp(argv[i], "openat2-old") == 0)
            failed = refuse_openat2(EPERM);
        else if (strcmp(argv[i], "--") == 0)
            return execv(argv[i + 1], argv + i + 1);
        if (failed)
            return 1;
    }
    return 1;
}
