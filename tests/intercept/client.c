/* A static netlink client for the tests. Each word is one step; each prints one line. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *result(long value) { return value < 0 ? strerrorname_np(errno) : "ok"; }

static int xfrm(int kind) { return socket(AF_NETLINK, kind, NETLINK_XFRM); }

static void request(int fd, int flags)
{
    struct { struct nlmsghdr head; char body[24]; } message = {{40, 0x1c, NLM_F_REQUEST | NLM_F_ACK, 7, 0}, ""};
    struct sockaddr_nl kernel = {AF_NETLINK}, from;
    char buffer[4096];
    struct iovec part = {buffer, sizeof buffer};
    struct msghdr answer = {&from, sizeof from, &part, 1};
    memset(&from, 0xee, sizeof from);
    if (sendto(fd, &message, 40, 0, (void *)&kernel, sizeof kernel) < 0) { printf("send %s\n", result(-1)); return; }
    long got = recvmsg(fd, &answer, flags);
    struct nlmsghdr *head = (void *)buffer;
    if (got < 0) { printf("reply %s\n", result(got)); return; }
    printf("reply %ld type %d seq %u from family %d pid %u len %u flags %d\n", got, head->nlmsg_type,
           head->nlmsg_seq, from.nl_family, from.nl_pid, answer.msg_namelen, answer.msg_flags);
}

static void name(int fd)
{
    struct sockaddr_nl own;
    socklen_t size = sizeof own;
    long got = getsockname(fd, (void *)&own, &size);
    printf("name %s family %d own %d size %u groups %u\n", result(got), own.nl_family,
           own.nl_pid == (unsigned)getpid(), size, own.nl_groups);
}

static void *caller(void *at) { for (;;) { socklen_t n = 12; char b[12]; getsockname((long)at, (void *)b, &n); } return 0; }

static void hostile(void)
{
    int fd = xfrm(SOCK_RAW);
    void *bad = (void *)16, *reads = mmap(0, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *edge = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    socklen_t size = 12, negative = -1;
    struct sockaddr_nl own;
    munmap(edge + 4096, 4096);
    printf("bind %s\n", result(bind(fd, bad, 12)));
    printf("bind edge %s\n", result(bind(fd, (void *)(edge + 4090), 12)));
    printf("connect %s\n", result(connect(fd, bad, 12)));
    printf("name %s\n", result(getsockname(fd, bad, &size)));
    printf("name length %s\n", result(getsockname(fd, (void *)&own, bad)));
    printf("name negative %s\n", result(getsockname(fd, (void *)&own, &negative)));
    printf("name read-only %s\n", result(getsockname(fd, reads, &size)));
    printf("option %s\n", result(setsockopt(fd, 270, 11, bad, 4)));
    printf("option wild %s\n", result(setsockopt(fd, 270, 11, (void *)-1L, 4)));
    printf("get %s\n", result(getsockopt(fd, 270, 11, bad, &size)));
    printf("type %s\n", result(getsockopt(fd, SOL_SOCKET, SO_TYPE, &own, bad)));
    int udp = socket(AF_INET, SOCK_DGRAM, 0), two = 2;
    printf("encap %s\n", result(setsockopt(udp, 17, 100, bad, 4)));
    printf("encap short %s\n", result(setsockopt(udp, 17, 100, &two, 2)));
    printf("policy %s\n", result(setsockopt(udp, 0, 17, bad, 168)));
    printf("policy long %s\n", result(setsockopt(udp, 0, 17, edge, 5000)));
    printf("closed %s\n", result(bind(999, (void *)&own, 12)));
    printf("closed policy %s\n", result(setsockopt(999, 0, 17, edge, 168)));
    printf("kind %s\n", result(xfrm(SOCK_STREAM)));
    printf("flags %s\n", result(xfrm(SOCK_RAW | 0x100000)));
}

int main(int count, char **words)
{
    int fd = -1, i;
    setvbuf(stdout, 0, _IOLBF, 0);
    for (i = 1; i < count; i++) {
        char *word = words[i];
        if (!strcmp(word, "raw")) printf("socket %s\n", result(fd = xfrm(SOCK_RAW)));
        else if (!strcmp(word, "request")) request(fd, 0);
        else if (!strcmp(word, "at-once")) request(fd, MSG_DONTWAIT);
        else if (!strcmp(word, "name")) name(fd);
        else if (!strcmp(word, "dup")) fd = dup(fd);
        else if (!strcmp(word, "high")) fd = fcntl(fd, F_DUPFD, 700);
        else if (!strcmp(word, "fork")) { if (fork()) { int s; wait(&s); return WEXITSTATUS(s); } }
        else if (!strcmp(word, "pass")) {  /* SCM_RIGHTS to oneself */
            int ends[2], *got; char c = 0, space[CMSG_SPACE(sizeof(int))] = "";
            struct iovec part = {&c, 1};
            struct msghdr m = {0, 0, &part, 1, space, sizeof space};
            socketpair(AF_UNIX, SOCK_DGRAM, 0, ends);
            struct cmsghdr *h = CMSG_FIRSTHDR(&m);
            *h = (struct cmsghdr){CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
            got = (int *)CMSG_DATA(h); *got = fd;
            sendmsg(ends[0], &m, 0); close(fd); recvmsg(ends[1], &m, 0); fd = *got;
        } else if (!strncmp(word, "bind=", 5)) {
            struct sockaddr_nl own = {AF_NETLINK, 0, !strcmp(word + 5, "pid") ? getpid() : atoi(word + 5), 0};
            printf("bind %s\n", result(bind(fd, (void *)&own, 12)));
        } else if (!strcmp(word, "hostile")) hostile();
        else if (!strcmp(word, "die")) {  /* in the middle of calls of four threads */
            pthread_t t; int n;
            for (n = 0; n < 4; n++) pthread_create(&t, 0, caller, (void *)(long)fd);
            usleep(20000); kill(getpid(), SIGKILL);
        } else if (!strcmp(word, "wait")) { char c; recv(fd, &c, 1, 0); }
        else if (!strcmp(word, "quit")) { syscall(SYS_exit_group, 0); }
        else if (!strncmp(word, "many=", 5)) {
            struct rlimit limit; int n, open = 0, wanted = atoi(word + 5), last = 0;
            getrlimit(RLIMIT_NOFILE, &limit);
            for (n = 0; n < wanted; n++) { int got = xfrm(SOCK_RAW); if (got >= 0) open++; else last = errno; }
            if (wanted < 300) usleep(1500000);
            printf("many %s %s\n", open == wanted ? "all" : "some", last ? strerrorname_np(last) : "ok");
        } else if (!strncmp(word, "churn=", 6)) {
            int n, bad = 0;
            for (n = atoi(word + 6); n; n--) { int got = xfrm(SOCK_RAW | SOCK_CLOEXEC); if (got < 0) bad++; else close(got); }
            printf("churn %d\n", bad);
        }
    }
    return 0;
}
