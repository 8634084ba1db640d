*** Settings ***
Documentation       The installed wheel as a process under load: what arrives, and in which order.
Resource            resources/audit.resource
Test Setup          Start Afresh
Test Teardown       Clear Away


*** Test Cases ***
What Runs Is The Installed Wheel
    ${ended}=    Run Python    import audit_buffer; print(audit_buffer.__version__, audit_buffer.__file__)
    Should End Well    ${ended}
    Should Contain    ${ended.stdout}    site-packages

Eight Threads And A Hundred Thousand Entries, Then A Restart
    [Documentation]    The second run appends under an id of its own; what the first one wrote stays as it is.
    ${ended}=    Run Application    --threads=8    --entries=12500
    Should End Well    ${ended}
    Log Should Tell Of    buffers=1    threads=8    entries=12500
    No Ring File Should Be Left
    ${file}=    Database File
    ${first}=    Stories    ${file}
    ${ended}=    Run Application    --threads=8    --entries=500
    Should End Well    ${ended}
    ${both}=    Stories    ${file}
    Length Should Be    ${both}    2
    Dictionary Should Contain Sub Dictionary    ${both}    ${first}
    Log Should Have Rows    104000

Four Processes Share One Database File
    [Documentation]    Nobody loses anything, and nobody is told that the database is locked.
    ${settled}=    Run Application
    Should End Well    ${settled}
    VAR    @{workers}
    FOR    ${number}    IN RANGE    4
        ${worker}=    Start Application    --threads=2    --entries=600
        Append To List    ${workers}    ${worker}
    END
    FOR    ${worker}    IN    @{workers}
        ${ended}=    Wait For End    ${worker}
        Should End Well    ${ended}
        Should Be Empty    ${ended.stderr}
    END
    Log Should Tell Of    buffers=4    threads=2    entries=600
    Nothing Acknowledged Should Be Lost    threads=2

Under Pressure A Bounded Buffer Only Slows The Producers
    Set To    queue_maxsize=64    batch_size=16    durability=memory    block_timeout=60
    ${ended}=    Run Application    --threads=8    --entries=250
    Should End Well    ${ended}
    Log Should Tell Of    buffers=1    threads=8    entries=250
